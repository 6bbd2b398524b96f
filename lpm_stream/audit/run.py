"""The audit itself."""

from collections.abc import Mapping
from pathlib import Path

import duckdb

from lpm_stream.audit.buckets import Buckets
from lpm_stream.audit.compare import Sides, compare
from lpm_stream.audit.database import database_rows
from lpm_stream.audit.findings import FAULTS, create_findings
from lpm_stream.audit.further import with_further_columns
from lpm_stream.audit.report import AuditReport, Progress, Step
from lpm_stream.audit.scratch import scratch_space
from lpm_stream.audit.settle import settle
from lpm_stream.audit.table import pin, table_rows
from lpm_stream.audit.tally import ambiguous_keys, tally
from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.spec import FeedSpec

_FOUND = "found"  # the schema for what is found


def audit(
    spec: FeedSpec,
    table: str,
    databases: Mapping[str, str],
    *,
    version: int | None = None,
    scratch: Path,
    settle_seconds: float = 0,
    storage_options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Compares a Delta table with the company databases, row by row and value by value.

    The table is read once, at one version, and each database once, in one read-only snapshot. Nothing is written
    but scratch files, which are gone afterwards. Compared is what is delivered: the contract's columns, and those
    that the policy takes in beside them.

    While a stream runs, a database is a little behind the version read, or ahead of it. With `settle_seconds`,
    what differed is looked at again until it agrees or that time is over: lag passes, loss stays. The row counts
    remain those of the first pass. See `lpm_stream.audit.settle`.

    Not to be called in a process that delivers to the same SQLite files (see `lpm_stream.audit.sqlite`).

    Args:
        spec: the feed.
        table: path or URL of the Delta table.
        databases: for each company to audit, the SQLAlchemy URL of its database.
        version: the version to compare; the newest if None.
        scratch: a directory with room for about twice what the table takes uncompressed, without long texts.
        settle_seconds: how long to wait for differences to pass; 0 reports them as they are first found.
        storage_options: what `deltalake` needs to reach the table.
        progress: told of each piece of work done.

    Returns:
        What was found. A database that cannot be read is part of it, not an error.

    Raises:
        SourceError: if there is no such table or version, or its files are gone.
        SchemaError: if the table does not fit the contract.
        LpmStreamError: if the scratch directory is not writable, or full.
    """
    tell = progress or _ignore
    pinned = pin(spec, table, version, storage_options)
    spec = with_further_columns(spec, pinned)
    with scratch_space(scratch) as space:
        db = space.db
        with Buckets(space.directory / "source") as source, Buckets(space.directory / "target") as target:
            with table_rows(db, spec, pinned) as reader:
                rows = source.add(reader)
            tell(Step("table", rows))
            read = _add_databases(target, db, spec, databases, tell)
        complete = [company for company, rows_or_problem in read.items() if isinstance(rows_or_problem, int)]
        create_findings(db, spec, _FOUND)
        compare(db, spec, Sides(source, target), complete, _FOUND)
        tell(Step("compare", space.row_count(f"{_FOUND}.{FAULTS}")))
        settled_version = None
        if settle_seconds > 0:
            settled_version = settle(
                space,
                spec,
                databases,
                _FOUND,
                newest=lambda: pin(spec, table, None, storage_options),
                seconds=settle_seconds,
                progress=tell,
            )
        companies = tally(db, spec, _FOUND, read)
        ambiguous, ambiguous_examples = ambiguous_keys(db, spec, _FOUND)
    return AuditReport(
        feed=spec.name,
        table=table,
        version=pinned.version(),
        settled_version=settled_version,
        companies=companies,
        unregistered=rows - sum(company.counts.rows_in_table for company in companies),
        ambiguous=ambiguous,
        ambiguous_examples=ambiguous_examples,
    )


def _add_databases(
    target: Buckets, db: duckdb.DuckDBPyConnection, spec: FeedSpec, databases: Mapping[str, str], tell: Progress
) -> dict[str, int | TargetFaultError]:
    """For each company, how many rows its database holds, or why it could not be read."""
    read: dict[str, int | TargetFaultError] = {}
    for company, url in databases.items():
        rows = 0
        try:
            with database_rows(db, spec, company, url) as reader:
                rows = read[company] = target.add(reader)
        except TargetFaultError as error:
            read[company] = error
        tell(Step("database", rows, company))
    return read


def _ignore(_step: Step) -> None:
    """Nobody wants to be told."""
