"""Whose doing a Dagster run is, for the audit."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from lpm_stream.control.actor import on_behalf_of

_USER_TAGS = ("user", "dagster/user")  # the second is what Dagster+ sets; without either, nobody knows
_ID_DIGITS = 8


@contextmanager
def acting(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Iterator[None]:
    """What is done within the block is the doing of the run, and of the user in its tags."""
    tags = context.run.tags
    user = next((tags[name] for name in _USER_TAGS if name in tags), "")
    run = f"Dagster run {context.run.run_id[:_ID_DIGITS]}"
    with on_behalf_of(f"{user}, {run}" if user else run):
        yield
