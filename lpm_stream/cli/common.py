"""What the commands share: their common options, opening a stream, and printing."""

import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.load import load_feeds, overridden
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.settings import Settings

if TYPE_CHECKING:
    from lpm_stream.stream import Stream

Home = Annotated[
    Path | None,
    typer.Option("--dir", envvar="LPM_STREAM_HOME", show_default=".lpm_stream", help="Where everything is kept."),
]
Feed = Annotated[str | None, typer.Option("--feed", help="The feed; needed only if there are several.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON to this file; - for stdout.")]

_ORDERLY_SECONDS = 4.7  # after a signal; then the process ends with whatever is in hand

console = Console()
err = Console(stderr=True)


def the_feed(name: str | None, home: Path) -> FeedSpec:
    """The feed of that name, or the only one, as the home directory has it.

    Raises:
        LpmStreamError: if there is no such feed, or several and no name.
    """
    feeds = load_feeds()
    if name is None and len(feeds) == 1:
        return overridden(next(iter(feeds.values())), home)
    if name not in feeds:
        raise LpmStreamError(
            f"feed {name or '(none given)'}: choose one of {', '.join(sorted(feeds))} with --feed"
        )
    return overridden(feeds[name], home)


@contextmanager
def opened(
    home: Path | None, feed: str | None, *, create: bool = True, needs_hub: bool = True, **given: str | None
) -> "Iterator[Stream]":
    """The stream that a command works on.

    Args:
        home: the command's `--dir`.
        feed: the command's `--feed`.
        create: whether the command may begin with an empty directory.
        needs_hub: whether the command can do nothing without the hub.
        given: settings that take precedence over those of the environment; None: not given.

    Raises:
        LpmStreamError: if there is nothing to work on.
    """
    from lpm_stream.stream import open_stream

    settings = Settings.load(home, **{name: value for name, value in given.items() if value is not None})
    if not create and not settings.home.exists():
        raise LpmStreamError(f"there is nothing at {settings.home}: check --dir or LPM_STREAM_HOME")
    with open_stream(settings, the_feed(feed, settings.home), needs_hub=needs_hub) as stream:
        yield stream


@contextmanager
def opened_all(home: Path | None, *, create: bool = True) -> "Iterator[list[Stream]]":
    """Every feed's stream, for commands on companies, which have one registry.

    Raises:
        LpmStreamError: as `opened` does.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(opened(home, name, create=create)) for name in load_feeds()]


def instant(text: str | None, option: str) -> datetime | None:
    """The instant that an option names, in UTC if it names no zone.

    Raises:
        LpmStreamError: if it is none.
    """
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise LpmStreamError(f"{option} {text}: give an instant like 2026-01-31T12:00:00Z") from error
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def set_up_logging(*, debug: bool) -> None:
    """Sends what happens to stderr; results go to stdout."""
    if not debug:
        os.environ.setdefault("RUST_LOG", "error")  # deltalake warns of every retry, past all that is set up here
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        handlers=[RichHandler(console=err, show_path=debug, rich_tracebacks=False)],
    )
    logging.getLogger("lpm_stream").setLevel(logging.DEBUG if debug else logging.INFO)


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C, SIGTERM and the end of the terminal set, so that work in hand can be finished."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


def stop_in_time() -> threading.Event:
    """As `stop_on_signals`; besides, the process is over within 5 s of a signal, whatever does not answer.

    What it has in hand by then is rolled back, as after `kill -9`: nothing is lost.
    """
    stop = stop_on_signals()
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno())  # at once, while handlers wait for the main thread to leave a library
    threading.Thread(target=_end_in_time, args=(stop, told, tell), name="end-in-time", daemon=True).start()
    return stop


def _end_in_time(stop: threading.Event, told: socket.socket, _: socket.socket) -> None:
    told.recv(1)
    stop.set()  # a handler would wait
    time.sleep(_ORDERLY_SECONDS)
    try:
        err.show_cursor()
        err.print("ended without waiting for what does not answer; what was in hand is rolled back: run it again")
    finally:  # there may be no terminal any more
        os._exit(128 + signal.SIGTERM)


def require_writable(target: Path | None) -> None:
    """Looks whether a result can be written, before the work: nobody wants to learn it afterwards.

    Raises:
        LpmStreamError: if it cannot.
    """
    if target is None or _is_stdout(target):
        return
    written = target if target.exists() else target.parent
    if target.is_dir() or not target.parent.is_dir() or not os.access(written, os.W_OK):
        raise LpmStreamError(
            f"--json {target}: cannot be written: name a file in a directory that exists, or - for stdout"
        )


def beside(json_file: Path | None) -> Console:
    """Where lines for people go: to stdout, unless a command's `--json` has that for itself."""
    return err if json_file is not None and _is_stdout(json_file) else console


def write_json(target: Path, content: Any) -> None:
    """Writes a result; dataclasses become objects, instants ISO 8601.

    Raises:
        LpmStreamError: if the file cannot be written.
    """
    text = json.dumps(content, default=_plain, ensure_ascii=False, indent=2)
    if _is_stdout(target):
        sys.stdout.write(f"{text}\n")
        return
    try:
        target.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise LpmStreamError(f"{target}: cannot be written ({error.strerror})") from error


def _is_stdout(target: Path) -> bool:
    return str(target) == "-"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
