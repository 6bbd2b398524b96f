"""The history of how legacy files compared with what was streamed: one result for each company and period."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from lpm_stream.control.store import ControlStore, upsert
from lpm_stream.control.tables import reconciliations

if TYPE_CHECKING:
    from lpm_stream.legacy.report import Reconciliation  # brings DuckDB, which reading the history does not need

_KEPT = {"passed", "failed", "late"}


@dataclass(frozen=True)
class Kept:
    """A result as it is kept; counts as in `lpm_stream.legacy.report.Faults`, `explained` added up.

    Attributes:
        details: `explained` per reason, `examples` per kind (keys and columns), `broken` lines, `late_seconds`,
            `sooner` (rows, least, median), all as in `lpm_stream.legacy.report.Reconciliation`.
    """

    company: str
    period_start: datetime
    period_end: datetime
    compared_at: datetime
    verdict: str
    file: str | None
    file_size: int
    file_modified: datetime | None
    rows_in_file: int
    rows_in_table: int
    missing: int
    extra: int
    different: int
    broken: int
    explained: int
    problem: str | None
    details: dict[str, Any]


@dataclass(frozen=True)
class Day:
    """A company's results of the periods that begin on one UTC day, added up.

    Attributes:
        day: ISO 8601.
        files: how many files were compared.
        bad: how many periods failed or are late.
        rows_in_file: rows of the files.
        missing: rows of the files that the company's table lacks, without those explained.
        extra: rows that the files lack.
        different: rows with other values.
        broken: lines that could not be compared.
    """

    company: str
    day: str
    files: int
    bad: int
    rows_in_file: int
    missing: int
    extra: int
    different: int
    broken: int

    @property
    def completeness(self) -> float | None:
        """The share of the files' rows that the company's table has; None if there were none."""
        return 1 - self.missing / self.rows_in_file if self.rows_in_file else None


def record(store: ControlStore, result: "Reconciliation") -> bool:
    """Keeps a result in place of any of the same company and period.

    Returns:
        False if it is none that is kept: `waiting` and `unread` say nothing, and leave what is there.
    """
    if result.verdict not in _KEPT:
        return False
    faults = result.faults
    details = {
        "explained": dict(faults.explained),
        "examples": {kind: [asdict(one) for one in found] for kind, found in result.examples.items()},
        "broken": [asdict(one) for one in result.broken],
        "late_seconds": result.late_seconds,
        "sooner": asdict(result.sooner) if result.sooner else None,
    }
    values = {
        "period_end": result.period.end,
        "compared_at": result.compared_at,
        "verdict": result.verdict,
        "file": result.file,
        "file_size": result.size,
        "file_modified": result.modified,
        "rows_in_file": faults.rows_in_file,
        "rows_in_table": faults.rows_in_table,
        "missing": faults.missing,
        "extra": faults.extra,
        "different": faults.different,
        "broken": faults.broken,
        "explained": sum(faults.explained.values()),
        "problem": result.problem,
        "details": json.dumps(details, ensure_ascii=False, default=str),
    }
    key = {"feed": result.feed, "company": result.company, "period_start": result.period.start}
    with store.write() as connection:
        upsert(connection, reconciliations, key, values)
    return True


def read(store: ControlStore, feed: str, company: str | None = None, since: datetime | None = None) -> list[Kept]:
    """The results, oldest period first: of one company or of all, of periods that begin at `since` or later."""
    columns = [column for column in reconciliations.c if column.name != "feed"]
    query = _of(sa.select(*columns), feed, company, since)
    query = query.order_by(reconciliations.c.period_start, reconciliations.c.company)
    with store.read() as connection:
        rows = connection.execute(query).mappings().all()
    return [Kept(**{**row, "details": json.loads(row["details"])}) for row in rows]


def by_day(store: ControlStore, feed: str, company: str | None = None, since: datetime | None = None) -> list[Day]:
    """The results added up per company and day, oldest day first."""
    days: dict[tuple[str, str], Day] = {}
    for one in read(store, feed, company, since):
        key = (one.period_start.date().isoformat(), one.company)
        so_far = days.get(key, Day(one.company, key[0], 0, 0, 0, 0, 0, 0, 0))
        days[key] = Day(
            company=one.company,
            day=key[0],
            files=so_far.files + (one.file is not None),
            bad=so_far.bad + (one.verdict != "passed"),
            rows_in_file=so_far.rows_in_file + one.rows_in_file,
            missing=so_far.missing + one.missing,
            extra=so_far.extra + one.extra,
            different=so_far.different + one.different,
            broken=so_far.broken + one.broken,
        )
    return [days[key] for key in sorted(days)]


def _of(query: sa.Select[Any], feed: str, company: str | None, since: datetime | None) -> sa.Select[Any]:
    query = query.where(reconciliations.c.feed == feed)
    if company is not None:
        query = query.where(reconciliations.c.company == company)
    return query if since is None else query.where(reconciliations.c.period_start >= since)
