"""Finds how a file and a company's table, both staged in DuckDB, differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import duckdb
import polars as pl

from lpm_stream.audit.canonical import from_database
from lpm_stream.audit.report import Example, KeyPart
from lpm_stream.audit.sql import key_columns, quoted, same_key
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy import values
from lpm_stream.legacy.report import Kind
from lpm_stream.legacy.stage import AT, BROKEN, FILE, HASH, STORED, VERSION, WITHIN
from lpm_stream.legacy.stored import Target, stored_rows

FOUND = "found"
"""A row for each difference: key, `_kind`, `_version` and `_at` of the stored row, `_why` if explained."""

_MOST_EXAMPLES = 10
_ROWS = "rows_of_examples"


def compare(db: duckdb.DuckDBPyConnection, spec: FeedSpec, *, cut_short: bool) -> None:
    """Makes `found` from `file` and `stored`.

    Args:
        db: the scratch database.
        spec: the feed as it is compared.
        cut_short: whether the file lacks its end, so that what is not in it says nothing.
    """
    db.execute(f"""
        CREATE OR REPLACE TABLE {FOUND} AS
        SELECT {key_columns(spec, "f")}, CASE WHEN s.{HASH} IS NULL THEN 'missing' ELSE 'different' END AS _kind,
               s.{VERSION} AS _version, s.{AT} AS _at, NULL::VARCHAR AS _why
        FROM {FILE} f LEFT JOIN {STORED} s ON {same_key(spec, "f", "s")}
        WHERE NOT f.{BROKEN} AND f.{HASH} IS DISTINCT FROM s.{HASH}
    """)
    if not cut_short:
        db.execute(f"""
            INSERT INTO {FOUND} SELECT {key_columns(spec, "s")}, 'extra', s.{VERSION}, s.{AT}, NULL
            FROM {STORED} s ANTI JOIN {FILE} f ON {same_key(spec, "f", "s")} WHERE s.{WITHIN}
        """)


def count_faults(db: duckdb.DuckDBPyConnection) -> Mapping[Kind, int]:
    """The differences without an explanation, per kind."""
    return dict(db.execute(f"SELECT _kind, count(*) FROM {FOUND} WHERE _why IS NULL GROUP BY ALL").fetchall())


def examples(
    db: duckdb.DuckDBPyConnection,
    spec: FeedSpec,
    form: LegacyFormat,
    target: Target,
    again: Iterator[pl.DataFrame],
) -> dict[Kind, tuple[Example, ...]]:
    """The lowest keys of each kind of unexplained difference; of those that differ, the columns.

    Args:
        db: the scratch database, with `found`.
        spec: the feed as it is compared.
        form: the declared format.
        target: whose table; read where rows differ.
        again: the file's rows under the contract's names; read where rows differ.

    Raises:
        LegacyError: if the file cannot be read again.
        TargetFaultError: if the company's database cannot be read.
    """
    key = key_columns(spec)
    rows = db.execute(
        f"SELECT _kind, {key} FROM {FOUND} WHERE _why IS NULL "
        f"QUALIFY row_number() OVER (PARTITION BY _kind ORDER BY {key}) <= {_MOST_EXAMPLES} ORDER BY _kind, {key}"
    ).fetchall()
    found: dict[Kind, list[tuple[KeyPart, ...]]] = {}
    for kind, *parts in rows:
        found.setdefault(cast("Kind", kind), []).append(tuple(parts))
    columns: Mapping[tuple[KeyPart, ...], tuple[str, ...]] = {}
    if "different" in found:
        columns = _differing(db, spec, form, (target, found["different"]), again)
    return {
        kind: tuple(Example(one, columns.get(one, ()) if kind == "different" else ()) for one in keys)
        for kind, keys in found.items()
    }


def _differing(
    db: duckdb.DuckDBPyConnection,
    spec: FeedSpec,
    form: LegacyFormat,
    wanted: tuple[Target, Sequence[tuple[KeyPart, ...]]],
    again: Iterator[pl.DataFrame],
) -> Mapping[tuple[KeyPart, ...], tuple[str, ...]]:
    """Key to the columns that differ, of these keys of a company."""
    target, keys = wanted
    on = list(spec.primary_key)
    only = pl.DataFrame(keys, schema=on, orient="row")
    lines = pl.concat(frame.join(only, on=on, how="semi") for frame in again)
    with stored_rows(db, spec, target, keys) as stored:
        rows = [values.from_database(spec, form, pl.DataFrame(batch)) for batch in stored.batches]
    in_file = _by_key(
        db, spec, lines, {name: from_database(spec, spec.column(name)) for name in form.used.values()}
    )
    in_table = _by_key(db, spec, pl.concat(rows), dict(zip(spec.column_names, stored.columns, strict=True)))
    return {
        key: tuple(name for name in form.used.values() if in_file[key][name] != in_table[key][name])
        for key in in_file.keys() & in_table.keys()
    }


def _by_key(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, rows: pl.DataFrame, canonical: Mapping[str, str]
) -> Mapping[tuple[KeyPart, ...], Mapping[str, Any]]:
    """A few rows in canonical form; of several with a key the first."""
    db.register(_ROWS, rows.to_arrow())
    columns = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in canonical.items())
    found = db.sql(f"SELECT {columns} FROM {_ROWS}").pl().rows(named=True)
    db.unregister(_ROWS)
    return {tuple(row[name] for name in spec.primary_key): row for row in reversed(found)}
