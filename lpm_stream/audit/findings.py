"""Finds what differs between rows of both sides that lie in DuckDB: the SQL of the audit."""

from collections.abc import Sequence

import duckdb

from lpm_stream.audit.canonical import DATABASE, ODD, duckdb_type
from lpm_stream.audit.sql import key_columns, literal, quoted, same_key, whole_key
from lpm_stream.feed.spec import FeedSpec

# What is compared, in these tables.
SOURCE = "source"  # rows of the Delta table
TARGET = "target"  # rows of the databases, with the columns `_database` and `_odd`

# What was found, in these tables of a schema.
FAULTS = "faults"  # one a row: `_database`, the key, `_fault`, and the `_columns` that differ
AMBIGUOUS = "ambiguous"  # keys that the Delta table has more than once
TABLE_ROWS = "table_rows"  # numbers of rows of the Delta table, per company, to be added up

FAULT = "_fault"
COLUMNS = "_columns"

_SUSPECTS = "suspects"
_GIVEN = "(SELECT unnest($1::VARCHAR[]))"


def create_findings(db: duckdb.DuckDBPyConnection, spec: FeedSpec, schema: str) -> None:
    """Makes a schema with nothing found, in place of any of that name."""
    key = ", ".join(f"{quoted(name)} {duckdb_type(spec.column(name))}" for name in spec.primary_key)
    db.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    db.execute(f"CREATE SCHEMA {schema}")
    db.execute(f"CREATE TABLE {schema}.{FAULTS} ({DATABASE} VARCHAR, {key}, {FAULT} VARCHAR, {COLUMNS} VARCHAR[])")
    db.execute(f"CREATE TABLE {schema}.{AMBIGUOUS} ({key})")
    db.execute(f"CREATE TABLE {schema}.{TABLE_ROWS} (company VARCHAR, count BIGINT)")


def add_findings(db: duckdb.DuckDBPyConnection, spec: FeedSpec, companies: Sequence[str], schema: str) -> None:
    """Compares `source` with `target` and adds what it finds.

    Args:
        db: the scratch database.
        spec: the feed.
        companies: whose databases count; of others nothing is missing, and no row is wrong.
        schema: where to add it.
    """
    _collect_suspects(db, spec, companies)
    _add_suspects(db, spec, schema)
    _add_missing(db, spec, companies, schema)
    _add_duplicated(db, spec, companies, schema)
    db.execute(
        f"INSERT INTO {schema}.{AMBIGUOUS} SELECT {key_columns(spec)} FROM {SOURCE} WHERE {whole_key(spec)} "
        f"GROUP BY ALL HAVING count(*) > 1"
    )
    company = quoted(spec.company_column)
    db.execute(f"INSERT INTO {schema}.{TABLE_ROWS} SELECT {company}, count(*) FROM {SOURCE} GROUP BY ALL")


def _collect_suspects(db: duckdb.DuckDBPyConnection, spec: FeedSpec, companies: Sequence[str]) -> None:
    """Collects the database rows for which the table has no row of that company that equals them."""
    values = [quoted(name) for name in spec.column_names if name not in spec.primary_key]
    equal = " AND ".join(["true", *(f"s.{name} IS NOT DISTINCT FROM t.{name}" for name in values)])
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE {_SUSPECTS} AS
        SELECT *, row_number() OVER () AS _row FROM {TARGET} t
        WHERE t.{DATABASE} IN {_GIVEN} AND ({ODD} IS NOT NULL OR NOT EXISTS (
            SELECT 1 FROM {SOURCE} s WHERE {_own(spec)} AND {same_key(spec, "s", "t")} AND {equal}))
        """,
        [companies],
    )


def _add_suspects(db: duckdb.DuckDBPyConnection, spec: FeedSpec, schema: str) -> None:
    """Says of each suspect what is wrong. Of several rows with its key in the table, the closest counts."""
    own = _own(spec)
    differing = _differing(spec)
    db.execute(f"""
        INSERT INTO {schema}.{FAULTS}
        WITH judged AS (
            SELECT t.{DATABASE}, {key_columns(spec, "t")},
                   t.{quoted(spec.company_column)} IS DISTINCT FROM t.{DATABASE} AS _stray,
                   count(s._present) > 0 AS _known,
                   count(s._present) FILTER ({own}) > 0 AS _owned,
                   arg_min({differing}, len({differing})) FILTER ({own}) AS _closest
            FROM {_SUSPECTS} t LEFT JOIN (SELECT true AS _present, * FROM {SOURCE}) s ON {same_key(spec, "s", "t")}
            GROUP BY t._row, t.{DATABASE}, {key_columns(spec, "t")}, _stray)
        SELECT {DATABASE}, {key_columns(spec)},
               CASE WHEN _stray OR (_known AND NOT _owned) THEN 'misrouted'
                    WHEN _owned THEN 'different'
                    ELSE 'extra' END AS {FAULT},
               CASE WHEN {FAULT} = 'different' THEN _closest END AS {COLUMNS}
        FROM judged
    """)


def _add_missing(db: duckdb.DuckDBPyConnection, spec: FeedSpec, companies: Sequence[str], schema: str) -> None:
    company = quoted(spec.company_column)
    db.execute(
        f"""
        INSERT INTO {schema}.{FAULTS}
        SELECT s.{company}, {key_columns(spec, "s")}, 'missing', NULL FROM {SOURCE} s
        WHERE s.{company} IN {_GIVEN} AND NOT EXISTS (
            SELECT 1 FROM {TARGET} t WHERE {_own(spec)} AND {same_key(spec, "s", "t")})
        """,
        [companies],
    )


def _add_duplicated(db: duckdb.DuckDBPyConnection, spec: FeedSpec, companies: Sequence[str], schema: str) -> None:
    """One fault for each copy of a key beyond the first."""
    key = key_columns(spec)
    db.execute(
        f"""
        INSERT INTO {schema}.{FAULTS}
        WITH repeated AS (
            SELECT {DATABASE}, {key}, count(*) AS _copies FROM {TARGET}
            WHERE {whole_key(spec)} AND {DATABASE} IN {_GIVEN}
            GROUP BY ALL HAVING _copies > 1)
        SELECT {DATABASE}, {key}, 'duplicated', NULL FROM repeated, range(_copies - 1)
        """,
        [companies],
    )


def _own(spec: FeedSpec) -> str:
    return f"s.{quoted(spec.company_column)} = t.{DATABASE}"


def _differing(spec: FeedSpec) -> str:
    """The list of the columns that differ between `s` and `t`."""
    marks = (
        f"CASE WHEN s.{quoted(name)} IS DISTINCT FROM t.{quoted(name)} OR list_contains(t.{ODD}, {literal(name)}) "
        f"THEN {literal(name)} END"
        for name in spec.column_names
    )
    return f"list_filter([{', '.join(marks)}], lambda name: name IS NOT NULL)"
