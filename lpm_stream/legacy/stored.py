"""Reads a company's table for the comparison.

The audit's reader goes through Python, value by value; a million rows take it 7 s. For SQLite there is a quicker
way: ADBC hands over Arrow. It is the SQLite that delivery uses, so this may run in a process that delivers. Every
other kind of database is read as the audit reads it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_sqlite.dbapi as adbc
import duckdb
import pyarrow as pa
import sqlalchemy as sa
from adbc_driver_manager import Error

from lpm_stream import database_url
from lpm_stream.audit.canonical import from_database
from lpm_stream.audit.database import database_rows
from lpm_stream.audit.report import KeyPart
from lpm_stream.audit.scratch import one_line
from lpm_stream.audit.sql import quoted
from lpm_stream.audit.sqlite import instant
from lpm_stream.errors import NoDatabaseError, TargetFaultError
from lpm_stream.feed.spec import ColumnType, FeedSpec
from lpm_stream.legacy.names import Period

Wanted = Period | Sequence[tuple[KeyPart, ...]] | None
"""The rows whose event time is in a period, those with these keys, or all."""

_KEYS_AT_ONCE = 100
_BUSY_MILLISECONDS = 10_000

# ADBC takes a column's type from the first row; so that goes ahead, and is left out again.
_FIRST_ROW: Mapping[ColumnType, str] = {
    "string": "''",
    "int32": "0",
    "int64": "0",
    "float64": "0.0",
    "boolean": "0",
    "timestamp": "''",
    "date": "''",
    "decimal": "''",
}


@dataclass(frozen=True)
class Target:
    """A company and the URL of its database."""

    company: str
    url: str


@dataclass(frozen=True)
class Stored:
    """Rows of a company's table.

    Attributes:
        batches: the compared columns in canonical form, but for what `columns` still does.
        columns: DuckDB expressions that bring the columns to canonical form.
    """

    batches: Iterable[pa.RecordBatch]
    columns: Sequence[str]


@contextmanager
def stored_rows(db: duckdb.DuckDBPyConnection, spec: FeedSpec, target: Target, wanted: Wanted) -> Iterator[Stored]:
    """A company's rows. Nothing else may use `db` meanwhile.

    Args:
        db: the scratch database.
        spec: the feed as it is compared.
        target: whose.
        wanted: which.

    Raises:
        NoDatabaseError: if there is no database: right for a company that has received nothing.
        TargetFaultError: if it cannot be read, or holds something other than the contract's types.
    """
    url = database_url.parse(target.url)
    if url.get_backend_name() == "sqlite":
        yield Stored(_read_sqlite(spec, url, wanted), [from_database(spec, column) for column in spec.columns])
        return
    span = (wanted.start, wanted.end) if isinstance(wanted, Period) else None
    keys = None if isinstance(wanted, Period) else wanted
    with database_rows(db, spec, target.company, target.url, keys, span=span) as reader:
        yield Stored(reader, [quoted(name) for name in spec.column_names])


def _read_sqlite(spec: FeedSpec, url: sa.URL, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    if not url.database or not Path(url.database).exists():
        raise NoDatabaseError(f"database {url.render_as_string()} does not exist; deliver makes it")
    try:
        uri = f"{Path(url.database).absolute().as_uri()}?mode=ro"
        with adbc.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
            cursor.fetchall()
            for condition, values in _conditions(spec, wanted):
                cursor.execute(_query(spec, condition), values)
                yield from _without_first_row(cursor.fetch_record_batch())
    except (Error, pa.ArrowException, OSError) as error:
        raise TargetFaultError(f"database {url.render_as_string()} cannot be read: {one_line(error)}") from error


def _query(spec: FeedSpec, condition: str) -> str:
    names = ", ".join(map(quoted, spec.column_names))
    first = ", ".join(f"{_FIRST_ROW[column.type]} AS {quoted(column.name)}" for column in spec.columns)
    return f"SELECT {first} UNION ALL SELECT {names} FROM {quoted(spec.name)} WHERE {condition}"


def _conditions(spec: FeedSpec, wanted: Wanted) -> Iterator[tuple[str, list[Any]]]:
    if wanted is None:
        yield "true", []
    elif isinstance(wanted, Period):
        at = quoted(spec.event_time_column)
        yield f"{at} >= ? AND {at} < ?", [instant(wanted.start), instant(wanted.end)]
    else:
        same = "(" + " AND ".join(f"{quoted(name)} = ?" for name in spec.primary_key) + ")"
        for start in range(0, len(wanted), _KEYS_AT_ONCE):
            some = wanted[start : start + _KEYS_AT_ONCE]
            yield " OR ".join([same] * len(some)), [part for key in some for part in key]


def _without_first_row(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    first = True
    for batch in reader:
        yield batch.slice(1) if first else batch
        first = False
