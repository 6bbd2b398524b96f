"""What a demo achieved: counted, and audited row by row."""

from collections.abc import Mapping
from dataclasses import dataclass

from lpm_stream.audit.report import AuditReport, Counts
from lpm_stream.control.latency import Latencies


@dataclass(frozen=True)
class CompanyResult:
    """One company's part.

    Attributes:
        company: its id.
        delivered: changes applied to its database during the demo.
        missing: rows of the table that its database lacks.
        different: rows whose values differ.
        extra: rows that the table has not.
        duplicated: copies of a row beyond the first.
        misrouted: rows of other companies.
        latency_s: p50, p95, p99, max in seconds.
    """

    company: str
    delivered: int
    missing: int
    different: int
    extra: int
    duplicated: int
    misrouted: int
    latency_s: Mapping[str, float | None]


@dataclass(frozen=True)
class Result:
    """The whole demo: `committed` and `delivered` count changes, the others rows."""

    committed: int
    delivered: int
    missing: int
    different: int
    extra: int
    duplicated: int
    misrouted: int
    latency_s: Mapping[str, float | None]
    ticks: int
    seconds: float
    version: int
    clean: bool
    companies: tuple[CompanyResult, ...]


def result_of(
    *,
    committed: int,
    received: Mapping[str, Latencies],
    audit: AuditReport,
    ticks: int,
    seconds: float,
) -> Result:
    """Puts the counts together.

    Args:
        committed: changes that the simulator committed.
        received: company to the latencies of what it received during the demo.
        audit: of the final state.
        ticks: sensor ticks that ended well.
        seconds: how long there was traffic.
    """
    everything = Latencies()
    for latencies in received.values():
        everything.merge(latencies)
    companies = []
    for one in audit.companies:
        mine = received.get(one.company, Latencies())
        companies.append(CompanyResult(one.company, mine.changes, **_faults(one.counts), latency_s=mine.summary()))
    return Result(
        committed=committed,
        delivered=everything.changes,
        **_faults(audit.totals),
        latency_s=everything.summary(),
        ticks=ticks,
        seconds=round(seconds, 1),
        version=audit.version,
        clean=audit.clean,
        companies=tuple(companies),
    )


def _faults(counts: Counts) -> dict[str, int]:
    return {
        "missing": counts.missing,
        "different": counts.different,
        "extra": counts.extra,
        "duplicated": counts.duplicated,
        "misrouted": counts.misrouted,
    }
