"""Finds how a file and a company's table, both staged in DuckDB, differ."""

from collections.abc import Mapping, Sequence
from typing import cast

import duckdb

from lpm_stream.audit.report import Example
from lpm_stream.audit.sql import key_columns, literal, quoted, same_key
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.schema import COMMIT_VERSION
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.report import Kind
from lpm_stream.legacy.stage import BROKEN, FILE, STORED, WITHIN

FOUND = "found"
"""A row for each difference: key, `_kind`, `_columns`, `_version` and `_at` of the stored row, `_why` if fine."""

_MOST_EXAMPLES = 10


def compare(db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, *, cut_short: bool) -> None:
    """Makes `found` from `file` and `stored`.

    Args:
        db: the scratch database.
        spec: the feed as it is compared.
        form: the declared format.
        cut_short: whether the file lacks its end, so that what is not in it says nothing.
    """
    key_f, key_s = key_columns(spec, "f"), key_columns(spec, "s")
    version, at = quoted(COMMIT_VERSION), quoted(spec.event_time_column)
    differing = _differing(spec, form)
    db.execute(f"""
        CREATE OR REPLACE TABLE {FOUND} AS
        SELECT {key_f}, CASE WHEN s._present THEN 'different' ELSE 'missing' END AS _kind,
               CASE WHEN s._present THEN {differing} END AS _columns,
               s.{version} AS _version, s.{at} AS _at, NULL::VARCHAR AS _why
        FROM {FILE} f LEFT JOIN (SELECT true AS _present, * FROM {STORED}) s ON {same_key(spec, "f", "s")}
        WHERE NOT f.{BROKEN} AND (s._present IS NULL OR {_differ(spec, form)})
    """)
    if not cut_short:
        db.execute(f"""
            INSERT INTO {FOUND} SELECT {key_s}, 'extra', NULL, s.{version}, s.{at}, NULL
            FROM {STORED} s ANTI JOIN {FILE} f ON {same_key(spec, "f", "s")} WHERE s.{WITHIN}
        """)


def count_faults(db: duckdb.DuckDBPyConnection) -> Mapping[Kind, int]:
    """The differences without an explanation, per kind."""
    return dict(db.execute(f"SELECT _kind, count(*) FROM {FOUND} WHERE _why IS NULL GROUP BY ALL").fetchall())


def examples(db: duckdb.DuckDBPyConnection, spec: FeedSpec) -> dict[Kind, tuple[Example, ...]]:
    """The lowest keys of each kind of unexplained difference."""
    key = key_columns(spec)
    rows = db.execute(
        f"SELECT _kind, _columns, {key} FROM {FOUND} WHERE _why IS NULL "
        f"QUALIFY row_number() OVER (PARTITION BY _kind ORDER BY {key}) <= {_MOST_EXAMPLES} ORDER BY _kind, {key}"
    ).fetchall()
    found: dict[Kind, tuple[Example, ...]] = {}
    for kind, columns, *parts in rows:
        example = Example(tuple(parts), tuple(columns or ()))
        found[cast("Kind", kind)] = (*found.get(kind, ()), example)
    return found


def _values(spec: FeedSpec, form: LegacyFormat) -> Sequence[str]:
    return [name for name in form.used.values() if name not in spec.primary_key]


def _differ(spec: FeedSpec, form: LegacyFormat) -> str:
    parts = (f"f.{quoted(name)} IS DISTINCT FROM s.{quoted(name)}" for name in _values(spec, form))
    return " OR ".join(["false", *parts])


def _differing(spec: FeedSpec, form: LegacyFormat) -> str:
    """The list of the columns that differ between `f` and `s`."""
    marks = (
        f"CASE WHEN f.{quoted(name)} IS DISTINCT FROM s.{quoted(name)} THEN {literal(name)} END"
        for name in _values(spec, form)
    )
    return f"list_filter([{', '.join(['NULL', *marks])}], lambda name: name IS NOT NULL)"
