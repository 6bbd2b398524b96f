"""Who is at work, for the audit."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lpm_stream.settings import Settings

_on_behalf: ContextVar[str] = ContextVar("on_behalf", default="")


@contextmanager
def on_behalf_of(whom: str) -> Iterator[None]:
    """What is done within the block is not the doing of who runs this process, but of a Dagster run, say."""
    token = _on_behalf.set(whom)
    try:
        yield
    finally:
        _on_behalf.reset(token)


def who() -> str:
    """The person by `LPM_STREAM_USER`, if it is set, for whom they act, and the account and host in any case."""
    account = f"{_account()}@{socket.gethostname()}"
    said = [one for one in (Settings().user, _on_behalf.get()) if one]
    return f"{', '.join(said)} ({account})" if said else account


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"
