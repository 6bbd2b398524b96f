"""What a demo achieved: counted, and audited row by row."""

from collections.abc import Mapping
from dataclasses import dataclass

from lpm_stream.audit.report import AuditReport, Counts
from lpm_stream.control.latency import Latencies
from lpm_stream.demo.watch import Alert, CheckResult, Injected, Seen


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
    """The whole demo: `committed` and `delivered` count changes, the others to `misrouted` rows.

    Attributes:
        clean: whether the audit found every company's rows right.
        as_expected: whether no check failed and nothing was told; or, of a demo with a fault, nothing but that.
        checks: one for each check and company.
        alerts: the incidents of the demo's time.
        faults: what was injected where.
    """

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
    as_expected: bool
    companies: tuple[CompanyResult, ...]
    checks: tuple[CheckResult, ...]
    alerts: tuple[Alert, ...]
    faults: tuple[Injected, ...]


def result_of(
    *,
    committed: int,
    received: Mapping[str, Latencies],
    audit: AuditReport,
    ticks: int,
    seconds: float,
    seen: Seen,
    faults: tuple[Injected, ...],
    as_expected: bool,
) -> Result:
    """Puts the counts together.

    Args:
        committed: changes that the simulator committed.
        received: company to the latencies of what it received during the demo.
        audit: of the final state.
        ticks: sensor ticks that ended well.
        seconds: how long there was traffic.
        seen: checks and alerts.
        faults: what was injected.
        as_expected: whether checks and alerts show that and nothing else.
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
        as_expected=as_expected,
        companies=tuple(companies),
        checks=seen.checks,
        alerts=seen.alerts,
        faults=faults,
    )


def _faults(counts: Counts) -> dict[str, int]:
    return {
        "missing": counts.missing,
        "different": counts.different,
        "extra": counts.extra,
        "duplicated": counts.duplicated,
        "misrouted": counts.misrouted,
    }
