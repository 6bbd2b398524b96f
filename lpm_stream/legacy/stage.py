"""Brings a file and the rows that it should carry into DuckDB, on disk, where they are compared.

Of a row only the key and a 64-bit hash of the values are kept: that keeps a million rows small and quick. Two rows
with different values pass for equal with a chance of one in 2**64. Whole rows are read again for the examples.
"""

from collections.abc import Iterable, Iterator, Mapping

import duckdb
import polars as pl
import pyarrow as pa

from lpm_stream.audit.canonical import duckdb_type, from_database
from lpm_stream.audit.sql import key_columns, quoted
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.schema import COMMIT_VERSION
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy import values
from lpm_stream.legacy.names import Period
from lpm_stream.legacy.records import LINE, Records
from lpm_stream.legacy.stored import Target, Wanted, stored_rows

FILE = "file"  # rows of the file: key, `_hash`, `_line`, and `_broken`: only the key counts
STORED = "stored"  # rows of the company's table: key, `_hash`, `_at`, `_version`, and `_within` the period or not
HASH, AT, VERSION, BROKEN, WITHIN = "_hash", "_at", "_version", "_broken", "_within"

MOST_KEYS = 20_000
"""So many rows of a file are looked up by key outside of its period; for more, the whole table is read."""

_PIECE = "piece"
_ROWS_AT_ONCE = 20_000


def stage_file(db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, records: Records) -> None:
    """Makes `file` of the records; what is broken is noted at them. Of several rows of a key the first counts.

    Args:
        db: the scratch database.
        spec: the feed as it is compared, see `lpm_stream.legacy.values.compared`.
        form: the declared format.
        records: the file's.
    """
    _create(db, spec, FILE, f"{LINE} BIGINT, {BROKEN} BOOLEAN")
    canonical = {name: from_database(spec, spec.column(name)) for name in form.used.values()}
    statement = f"INSERT INTO {FILE} SELECT {_kept(spec, form, canonical)}, {LINE}, {BROKEN} FROM {_PIECE}"
    for frame in records.frames():
        typed = values.from_file(spec, form, frame)
        bad = pl.repeat(value=False, n=frame.height, eager=True)
        for reason, found in typed.breaches:
            records.broken.add(frame.filter(found & ~bad)[LINE], reason)
            bad = bad | found
        rows = typed.rows.with_columns(bad.alias(BROKEN)).filter(~typed.keyless)
        _insert(db, rows, statement)
    _drop_repeated(db, spec, records)


def stage_period(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, target: Target, period: Period
) -> None:
    """Makes `stored` of the company's rows whose event time is in the period; it is there also if that fails.

    Raises:
        TargetFaultError: if the company's database cannot be read.
    """
    _create(db, spec, STORED, f"{AT} TIMESTAMP, {VERSION} BIGINT, {WITHIN} BOOLEAN")
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
        canonical = dict(zip(spec.column_names, stored.columns, strict=True))
        kept = _kept(spec, form, canonical)
        more = f"{quoted(spec.event_time_column)}, {quoted(COMMIT_VERSION)}, {isinstance(wanted, Period)}"
        statement = f"INSERT INTO {STORED} SELECT {kept}, {more} FROM {_PIECE} {only}"
        for frame in _gathered(stored.batches):
            _insert(writer, values.from_database(spec, form, frame), statement)


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


def _create(db: duckdb.DuckDBPyConnection, spec: FeedSpec, table: str, more: str) -> None:
    key = ", ".join(f"{quoted(name)} {duckdb_type(spec.column(name))}" for name in spec.primary_key)
    db.execute(f"CREATE OR REPLACE TABLE {table} ({key}, {HASH} UBIGINT, {more})")


def _kept(spec: FeedSpec, form: LegacyFormat, canonical: Mapping[str, str]) -> str:
    """The key and the hash of the values that both sides have, from expressions for the columns."""
    others = [canonical[name] for name in form.used.values() if name not in spec.primary_key]
    key = ", ".join(canonical[name] for name in spec.primary_key)
    return f"{key}, hash({', '.join(others or ['0'])})"


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
