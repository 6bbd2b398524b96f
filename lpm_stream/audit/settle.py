"""Tells lag from loss: looks again at what differed, for a while, and drops what agrees by then."""

import time
from collections.abc import Callable, Mapping

import duckdb
from deltalake import DeltaTable

from lpm_stream.audit.buckets import Buckets
from lpm_stream.audit.canonical import DATABASE
from lpm_stream.audit.compare import Sides, compare
from lpm_stream.audit.database import database_rows
from lpm_stream.audit.findings import FAULTS, create_findings
from lpm_stream.audit.report import KeyPart, Progress, Step
from lpm_stream.audit.scratch import Scratch
from lpm_stream.audit.sql import key_columns, whole_key
from lpm_stream.audit.table import table_rows
from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.spec import FeedSpec

MOST_KEYS = 20_000
_PAUSE_SECONDS = 0.5

_NOW = "now"  # the schema for what a look finds
_PENDING = "pending"
_OF_COMPANIES = f"{DATABASE} IN (SELECT unnest($1::VARCHAR[]))"

_Pending = Mapping[str, list[tuple[KeyPart, ...]]]


def settle(
    scratch: Scratch,
    spec: FeedSpec,
    databases: Mapping[str, str],
    schema: str,
    *,
    newest: Callable[[], DeltaTable],
    seconds: float,
    progress: Progress,
) -> int | None:
    """Looks at the keys of the faults again, until none is left or the time is over.

    Each look pins the newest version of the table, reads those keys alone from both sides, and replaces what was
    found of them by what is found now. One look at which a key agrees clears it: lag does not last, and a key that
    changes all the time agrees between two changes. Left standing are keys with a NULL or with a part that is not
    of the contract's type, which no lag explains, and those of a database that cannot be read any more. More than
    `MOST_KEYS` faults are not looked at again at all: so much is not lag.

    Args:
        scratch: the scratch space.
        spec: the feed.
        databases: company id to database URL.
        schema: where the findings are.
        newest: pins the newest version of the table.
        seconds: how long to go on; one look happens in any case.
        progress: told of each look.

    Returns:
        The version at the last look, or None if there was none.

    Raises:
        SourceError: if the Delta table can no longer be read.
    """
    deadline = time.monotonic() + seconds
    version = None
    if scratch.row_count(f"{schema}.{FAULTS}") > MOST_KEYS:
        return version
    while pending := _pending(scratch.db, spec, schema):
        time.sleep(max(0.0, min(_PAUSE_SECONDS, deadline - time.monotonic())))
        table = newest()
        version = table.version()
        companies = _look_again(scratch, spec, table, databases, pending)
        _replace(scratch.db, spec, schema, companies)
        progress(Step("settle", scratch.row_count(f"{schema}.{FAULTS}")))
        if time.monotonic() >= deadline:
            break
    return version


def _pending(db: duckdb.DuckDBPyConnection, spec: FeedSpec, schema: str) -> _Pending:
    """The keys to look at again, per company, and beside it as a scratch table."""
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE {_PENDING} AS SELECT DISTINCT {DATABASE}, {key_columns(spec)} "
        f"FROM {schema}.{FAULTS} WHERE {whole_key(spec)}"
    )
    pending: dict[str, list[tuple[KeyPart, ...]]] = {}
    for company, *key in db.execute(f"FROM {_PENDING}").fetchall():
        pending.setdefault(company, []).append(tuple(key))
    return pending


def _look_again(
    scratch: Scratch, spec: FeedSpec, table: DeltaTable, databases: Mapping[str, str], pending: _Pending
) -> list[str]:
    """Compares the pending keys; returns the companies whose databases could be read."""
    db = scratch.db
    companies = []
    with Buckets(scratch.directory / "source_now") as source, Buckets(scratch.directory / "target_now") as target:
        with table_rows(db, spec, table, _PENDING) as reader:
            source.add(reader)
        for company, keys in pending.items():
            try:
                with database_rows(db, spec, company, databases[company], keys) as reader:
                    target.add(reader)
            except TargetFaultError:
                continue  # what was found of this company stands
            companies.append(company)
    create_findings(db, spec, _NOW)
    compare(db, spec, Sides(source, target), companies, _NOW)
    return companies


def _replace(db: duckdb.DuckDBPyConnection, spec: FeedSpec, schema: str, companies: list[str]) -> None:
    """What was found of these companies' pending keys gives way to what is found now."""
    db.execute(f"DELETE FROM {schema}.{FAULTS} WHERE {whole_key(spec)} AND {_OF_COMPANIES}", [companies])
    db.execute(
        f"INSERT INTO {schema}.{FAULTS} SELECT * FROM {_NOW}.{FAULTS} SEMI JOIN {_PENDING} "
        f"USING ({DATABASE}, {key_columns(spec)}) WHERE {_OF_COMPANIES}",
        [companies],
    )
