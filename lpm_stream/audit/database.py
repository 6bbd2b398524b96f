"""Reads company databases, each in one read-only snapshot."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lpm_stream import database_url
from lpm_stream.audit import mssql, postgresql, sqlite
from lpm_stream.audit.buckets import HASH
from lpm_stream.audit.canonical import DATABASE, ODD, from_database, target_schema
from lpm_stream.audit.further import FurtherColumn
from lpm_stream.audit.report import KeyPart
from lpm_stream.audit.scratch import one_line
from lpm_stream.audit.sql import key_hash, quoted, streamed
from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.spec import Column, ColumnType, FeedSpec

_STREAM = "database_stream"
_ROWS_AT_ONCE = 4_000  # more were slower
_KEYS_AT_ONCE = 100


@dataclass(frozen=True)
class Dialect:
    """What has to be known of one kind of database.

    Attributes:
        open: makes an engine that can only read; raises TargetFaultError if the URL names no database.
        begin: the statement that begins a snapshot.
        selected: how a column is selected.
        is_part: whether a column of the key is a value in canonical form.
        array: a column's values as they came from the driver, in canonical form, and the places of those that are
            not of the contract's type, which become NULL.
        instant: an instant as it is stored, for comparisons.
    """

    open: Callable[[sa.URL], sa.Engine]
    begin: str
    selected: Callable[[Column], sa.ColumnElement[Any]]
    is_part: Callable[[Column, KeyPart], sa.ColumnElement[bool]]
    array: Callable[[ColumnType, Sequence[Any]], tuple[pa.Array, Sequence[int]]]
    instant: Callable[[datetime], Any]


_DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "sqlite": Dialect(
            sqlite.open_read_only, sqlite.BEGIN, sqlite.selected, sqlite.is_part, sqlite.array, sqlite.instant
        ),
        "postgresql": Dialect(
            postgresql.open_read_only,
            postgresql.BEGIN,
            postgresql.selected,
            postgresql.is_part,
            postgresql.array,
            postgresql.instant,
        ),
        # The drivers of both hand out the same types.
        "mssql": Dialect(
            mssql.open_read_only, mssql.BEGIN, mssql.selected, mssql.is_part, postgresql.array, mssql.instant
        ),
    },
)


@contextmanager
def database_rows(
    db: duckdb.DuckDBPyConnection,
    spec: FeedSpec,
    company: str,
    url: str,
    keys: Sequence[tuple[KeyPart, ...]] | None = None,
    *,
    span: tuple[datetime, datetime] | None = None,
    first: Callable[[sa.Connection], None] | None = None,
) -> Iterator[pa.RecordBatchReader]:
    """A company's rows, of one snapshot, in canonical form. Nothing else may use `db` meanwhile.

    Args:
        db: the scratch database.
        spec: the feed.
        company: the company's id.
        url: SQLAlchemy URL of its database, or a reference to one.
        keys: the keys to read, without NULLs. None reads all rows.
        span: reads, of all rows, those whose event time is from the first aware instant to before the second.
        first: reads what else is wanted of the same snapshot, before the rows are read.

    Yields:
        The contract's columns; `_database`, the company whose database it is; `_odd`, the columns (or NULL) that
        hold something other than the contract's type; and the hash of the key. A `FurtherColumn` that the table
        lacks is NULL.

    Raises:
        TargetFaultError: if the database cannot be read or lacks the table or a column of it.
    """
    failures: list[DBAPIError] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for statement in _statements(dialect, spec, stored, keys, span):
                yield from _read(connection, dialect, spec, company, statement)
        except DBAPIError as error:
            failures.append(error)
            raise

    columns = ", ".join(f"{from_database(spec, column)} AS {quoted(column.name)}" for column in spec.columns)
    query = f"SELECT {DATABASE}, {columns}, {ODD}, {key_hash(spec)} AS {HASH} FROM {_STREAM}"
    with _snapshot(url) as (connection, dialect):
        if first is not None:
            first(connection)
        stored = _stored_columns(connection, spec)
        db.register(_STREAM, pa.RecordBatchReader.from_batches(target_schema(spec), batches()))
        try:
            with streamed(db, query) as reader:
                yield reader
        except (OSError, duckdb.InvalidInputException):
            if failures:  # DuckDB passes on no more than its text
                raise failures[0] from None
            raise
        finally:
            db.unregister(_STREAM)


@contextmanager
def _snapshot(url: str) -> Iterator[tuple[sa.Connection, Dialect]]:
    parsed = database_url.parse(url)
    dialect = _DIALECTS.get(parsed.get_backend_name())
    if dialect is None:
        raise TargetFaultError(
            f"databases of kind {parsed.get_backend_name()!r} cannot be audited; use sqlite:///PATH, "
            f"postgresql://USER@HOST/DATABASE or mssql+mssqlpython://USER@HOST/DATABASE"
        )
    engine = dialect.open(parsed)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(dialect.begin)
            yield connection, dialect
    except DBAPIError as error:
        raise TargetFaultError(
            f"database {parsed.set(query={}).render_as_string()} cannot be read: {one_line(error.orig or error)}"
        ) from error
    finally:
        engine.dispose()


def _stored_columns(connection: sa.Connection, spec: FeedSpec) -> frozenset[str]:
    """The columns of the table: at least the contract's."""
    anything: sa.Select[Any] = sa.select(sa.literal_column("*")).select_from(sa.table(spec.name)).limit(0)
    stored = frozenset(connection.execute(anything).keys())
    declared = [column.name for column in spec.columns if not isinstance(column, FurtherColumn)]
    if lacking := [name for name in declared if name not in stored]:
        raise TargetFaultError(f"its table {spec.name} lacks the contract's columns {', '.join(lacking)}")
    if held := [name for name in spec.withheld if name in stored]:
        raise TargetFaultError(f"its table {spec.name} has columns it is not entitled to: {', '.join(held)}")
    return stored


def _statements(
    dialect: Dialect,
    spec: FeedSpec,
    stored: Collection[str],
    keys: Sequence[tuple[KeyPart, ...]] | None,
    span: tuple[datetime, datetime] | None,
) -> Iterator[sa.Select[Any]]:
    columns = (
        dialect.selected(column)
        if column.name in stored
        else sa.null().label(sa.quoted_name(column.name, quote=True))
        for column in spec.columns
    )
    everything = sa.select(*columns).select_from(sa.table(spec.name))
    if span is not None:
        begin, end = map(dialect.instant, span)
        event_time: sa.ColumnClause[Any] = sa.column(spec.event_time_column)
        yield everything.where(event_time >= begin, event_time < end)
        return
    if keys is None:
        yield everything
        return
    key_columns = [spec.column(name) for name in spec.primary_key]
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        wanted = (sa.and_(*map(dialect.is_part, key_columns, key)) for key in keys[start : start + _KEYS_AT_ONCE])
        yield everything.where(sa.or_(*wanted))


def _read(
    connection: sa.Connection, dialect: Dialect, spec: FeedSpec, company: str, statement: sa.Select[Any]
) -> Iterator[pa.RecordBatch]:
    options = {"stream_results": True, "yield_per": _ROWS_AT_ONCE}
    for rows in connection.execute(statement, execution_options=options).partitions():
        yield _batch(dialect, spec, company, rows)


def _batch(dialect: Dialect, spec: FeedSpec, company: str, rows: Sequence[sa.Row[Any]]) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    odd: dict[int, list[str]] = {}
    for column, values in zip(spec.columns, zip(*rows, strict=True), strict=True):
        array, places = dialect.array(column.type, values)
        arrays.append(array)
        for place in places:
            odd.setdefault(place, []).append(column.name)
    schema = target_schema(spec)
    marks = pa.array([odd.get(place) for place in range(len(rows))], schema.field(ODD).type)
    return pa.record_batch([pa.repeat(company, len(rows)), *arrays, marks], schema=schema)
