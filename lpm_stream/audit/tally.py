"""Counts what was found, and picks the examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from lpm_stream.audit.canonical import DATABASE
from lpm_stream.audit.findings import AMBIGUOUS, COLUMNS, FAULT, FAULTS, TABLE_ROWS
from lpm_stream.audit.report import CompanyAudit, Counts, Example, Fault
from lpm_stream.audit.sql import quoted
from lpm_stream.errors import NoDatabaseError, TargetFaultError
from lpm_stream.feed.spec import FeedSpec

_MOST_EXAMPLES = 10

_Found = tuple[int, tuple[Example, ...]]  # how often, and where first


def tally(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, schema: str, read: Mapping[str, int | TargetFaultError]
) -> tuple[CompanyAudit, ...]:
    """What was found of each company.

    Args:
        db: the scratch database.
        spec: the feed.
        schema: where the findings are.
        read: for each company, how many rows its database holds, or why it could not be read.
    """
    in_table = dict(db.execute(f"SELECT company, sum(count) FROM {schema}.{TABLE_ROWS} GROUP BY ALL").fetchall())
    found = _faults_per_company(db, spec, schema)
    return tuple(
        _company(company, int(in_table.get(company, 0)), rows, found.get(company, {}))
        for company, rows in read.items()
    )


def ambiguous_keys(db: duckdb.DuckDBPyConnection, spec: FeedSpec, schema: str) -> _Found:
    """How many keys the Delta table holds more than once, and the first of them."""
    first = _first([quoted(name) for name in spec.primary_key])
    [(count, structs)] = db.execute(f"SELECT count(*), {first} FROM {schema}.{AMBIGUOUS}").fetchall()
    return count, _examples(spec, structs)


def _faults_per_company(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, schema: str
) -> dict[str, dict[Fault, _Found]]:
    first = _first([*map(quoted, spec.primary_key), COLUMNS])
    rows = db.execute(
        f"SELECT {DATABASE}, {FAULT}, count(*), {first} FROM {schema}.{FAULTS} GROUP BY {DATABASE}, {FAULT}"
    ).fetchall()
    found: dict[str, dict[Fault, _Found]] = {}
    for company, fault, count, structs in rows:
        found.setdefault(company, {})[fault] = (count, _examples(spec, structs))
    return found


def _company(
    company: str, in_table: int, read: int | TargetFaultError, found: Mapping[Fault, _Found]
) -> CompanyAudit:
    if isinstance(read, NoDatabaseError) and not in_table:
        return CompanyAudit(company, Counts())
    if isinstance(read, TargetFaultError):
        return CompanyAudit(company, Counts(rows_in_table=in_table, missing=in_table), problem=str(read))
    counts = {fault: count for fault, (count, _) in found.items()}
    examples = {fault: first for fault, (_, first) in found.items()}
    return CompanyAudit(company, Counts(in_table, read, **counts), examples)


def _first(columns: Sequence[str]) -> str:
    """An aggregate: these columns of the rows with the lowest keys, as structs."""
    fields = ", ".join(f"{column} := {column}" for column in columns)
    return f"min(struct_pack({fields}), {_MOST_EXAMPLES})"


def _examples(spec: FeedSpec, structs: Sequence[Mapping[str, Any]] | None) -> tuple[Example, ...]:
    return tuple(
        Example(tuple(struct[name] for name in spec.primary_key), tuple(struct.get(COLUMNS) or ()))
        for struct in structs or ()
    )
