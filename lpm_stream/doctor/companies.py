"""Looks at company databases, many at once: each as delivery would, but without a row."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from lpm_stream import database_url, postgresql
from lpm_stream.control.registry import Served
from lpm_stream.delivery.database import open_database
from lpm_stream.delivery.slots import Slots
from lpm_stream.doctor.outcome import NothingThereError, Outcome, examine
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, contract_schema
from lpm_stream.feed.spec import FeedSpec

_AT_ONCE = 16
_SECONDS = 15.0  # longer than a lock is waited for

Told = Callable[[int, int], None]


def look_at_all(spec: FeedSpec, served: Mapping[str, Served], tell: Told) -> Iterator[Outcome]:
    """Looks at databases side by side, and yields the outcomes in the companies' order.

    Args:
        spec: the feed.
        served: the companies by id.
        tell: called with the number of databases looked at, and of all.
    """
    slots: Slots[Outcome] = Slots(_AT_ONCE, "doctor")
    try:
        running = [slots.submit(partial(_outcome, spec, served[company])) for company in sorted(served)]
        for done, future in enumerate(running, start=1):
            yield future.result()
            tell(done, len(running))
    finally:
        slots.close()


def _outcome(spec: FeedSpec, served: Served) -> Outcome:
    shown = database_url.shown(served.database)
    fix = f"lpm-stream status shows since when; mend {shown}, the stream goes on by itself"
    look = partial(_look, spec, served)
    return examine(f"database of {served.company!r}", look, fix=fix, seconds=_SECONDS)


def _look(spec: FeedSpec, served: Served) -> str:
    """Reaches the database, and takes and gives back the right to write to a table that fits the contract.

    Raises:
        NothingThereError: if there is no database yet; looking makes none.
        LpmStreamError: if it cannot be delivered to.
    """
    if not _is_there(database_url.parse(served.database)):
        raise NothingThereError("there is none yet; delivery makes it with the first rows")
    opened = closing(open_database(spec, served.company, served.database, served.entitlement))
    with opened as database, database.transaction() as transaction:
        mark = transaction.watermark()
        transaction.merge(_no_rows(spec))
    return f"can be written, and fits the contract; it is at version {mark.version}"


def _is_there(url: sa.URL) -> bool:
    match url.get_backend_name():
        case "sqlite":
            return not url.database or Path(url.database).exists()
        case "postgresql":
            return postgresql.exists(url) is not False
        case _:
            return True


def _no_rows(spec: FeedSpec) -> pl.DataFrame:
    """Changes of no row: a table that does not fit refuses even these. With the columns that every company has."""
    contract = contract_schema(spec)
    schema: dict[str, pl.DataType] = {name: contract[name] for name in (*spec.primary_key, spec.company_column)}
    return pl.DataFrame(schema=schema | {COMMIT_VERSION: pl.Int64(), CHANGE_TYPE: pl.String()})
