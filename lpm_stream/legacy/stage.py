"""Brings a file and the rows that it should carry into DuckDB, on disk, where they are compared."""

from collections.abc import Iterable, Iterator, Sequence

import duckdb
import polars as pl
import pyarrow as pa

from lpm_stream.audit.canonical import duckdb_type, from_database
from lpm_stream.audit.sql import key_columns, quoted
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.legacy import values
from lpm_stream.legacy.names import Period
from lpm_stream.legacy.records import LINE, Records
from lpm_stream.legacy.stored import Target, Wanted, stored_rows

FILE = "file"  # rows of the file: its columns, `_line`, and `_broken`: only the key counts
STORED = "stored"  # rows of the company's table: the compared columns, and `_within` the period or not
BROKEN, WITHIN = "_broken", "_within"

MOST_KEYS = 20_000
"""So many rows of a file are looked up by key outside of its period; for more, the whole table is read."""

_PIECE = "piece"
_ROWS_AT_ONCE = 50_000


def stage_file(db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, records: Records) -> None:
    """Makes `file` of the records; what is broken is noted at them. Of several rows of a key the first counts.

    Args:
        db: the scratch database.
        spec: the feed as it is compared, see `lpm_stream.legacy.values.compared`.
        form: the declared format.
        records: the file's.
    """
    columns = [spec.column(name) for name in form.used.values()]
    _create(db, FILE, columns, f"{LINE} BIGINT, {BROKEN} BOOLEAN")
    selected = ", ".join(from_database(spec, column) for column in columns)
    db.execute("BEGIN")
    for frame in records.frames():
        typed = values.from_file(spec, form, frame)
        bad = pl.repeat(value=False, n=frame.height, eager=True)
        for reason, found in typed.breaches:
            records.broken.add(frame.filter(found & ~bad)[LINE], reason)
            bad = bad | found
        rows = typed.rows.with_columns(bad.alias(BROKEN)).filter(~typed.keyless)
        _insert(db, rows, f"INSERT INTO {FILE} SELECT {selected}, {LINE}, {BROKEN} FROM {_PIECE}")
    db.execute("COMMIT")
    _drop_repeated(db, spec, records)


def stage_period(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, target: Target, period: Period
) -> None:
    """Makes `stored` of the company's rows whose event time is in the period; it is there also if that fails.

    Raises:
        TargetFaultError: if the company's database cannot be read.
    """
    _create(db, STORED, spec.columns, f"{WITHIN} BOOLEAN")
    _stage(db, spec, form, target, period)


def stage_others(db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, target: Target) -> None:
    """Adds to `stored` the company's rows outside of the period whose keys are in the file.

    Raises:
        TargetFaultError: if the company's database cannot be read.
    """
    key = key_columns(spec)
    db.execute(f"CREATE OR REPLACE TABLE unfound AS SELECT {key} FROM {FILE} ANTI JOIN {STORED} USING ({key})")
    keys = db.execute(f"SELECT {key} FROM unfound LIMIT {MOST_KEYS + 1}").fetchall()
    if keys:
        _stage(db, spec, form, target, keys if len(keys) <= MOST_KEYS else None)


def _stage(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, target: Target, wanted: Wanted
) -> None:
    """Adds a period, the rows of these keys, or for None what `unfound` has, to `stored`."""
    only = f"SEMI JOIN unfound USING ({key_columns(spec)})" if wanted is None else ""
    with db.cursor() as writer, stored_rows(db, spec, target, wanted) as stored:
        columns = ", ".join(stored.columns)
        within = isinstance(wanted, Period)
        statement = f"INSERT INTO {STORED} SELECT {columns}, {within} FROM {_PIECE} {only}"
        writer.execute("BEGIN")
        for frame in _gathered(stored.batches):
            _insert(writer, values.from_database(spec, form, frame), statement)
        writer.execute("COMMIT")


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= _ROWS_AT_ONCE:
            yield pl.DataFrame(pa.Table.from_batches(held))
            held, rows = [], 0
    if rows:
        yield pl.DataFrame(pa.Table.from_batches(held))


def _insert(db: duckdb.DuckDBPyConnection, rows: pl.DataFrame, statement: str) -> None:
    db.register(_PIECE, rows.to_arrow())
    db.execute(statement)
    db.unregister(_PIECE)


def _create(db: duckdb.DuckDBPyConnection, table: str, columns: Sequence[Column], more: str) -> None:
    types = ", ".join(f"{quoted(column.name)} {_type(column)}" for column in columns)
    db.execute(f"CREATE OR REPLACE TABLE {table} ({types}, {more})")


def _type(column: Column) -> str:
    return "TIMESTAMP" if column.type == "timestamp" else duckdb_type(column)


def _drop_repeated(db: duckdb.DuckDBPyConnection, spec: FeedSpec, records: Records) -> None:
    key = key_columns(spec)
    later = (
        f"SELECT {LINE} FROM {FILE} JOIN (SELECT {key}, min({LINE}) AS _first FROM {FILE} GROUP BY ALL "
        f"HAVING count(*) > 1) USING ({key}) WHERE {LINE} > _first"
    )
    lines = db.sql(later).pl()[LINE]
    if len(lines):
        records.broken.add(lines, "has the key of an earlier line")
        db.execute(f"DELETE FROM {FILE} WHERE {LINE} IN ({later})")
