"""Whether companies have what was committed for them: no traffic and no delivery told apart."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lpm_stream.checks.result import Result, Value, severity
from lpm_stream.control import progress, registry
from lpm_stream.errors import SourceError
from lpm_stream.source.failure import one_line
from lpm_stream.status import CompanyStatus, Status, read_status
from lpm_stream.stream import Stream


def fresh(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:
    """Whether nothing that was committed for companies waits longer than the SLO and the grace allow.

    A company for which nothing was committed has no traffic, which is no failure. What is committed and not yet
    published may be anybody's, so it counts for all.

    Raises:
        SourceError: if the source table's log cannot be read.
    """
    spec = stream.spec
    status = read_status(stream)
    published = progress.read_published(stream.store, spec.name)
    delivered = progress.read_deliveries(stream.store, spec.name)
    unpublished = _unpublished_seconds(stream, status, now)
    states = {one.company: one for one in status.companies}
    promised = registry.slos(stream.store)
    for company in companies:
        limit = promised.get(company, spec.slo_seconds) + spec.checks.grace_seconds
        state, last = states[company], delivered.get(company)
        values: dict[str, Value] = {
            "published_version": published.get(company, -1),
            "delivered_version": last.version if last else -1,
            "waiting_seconds": round(state.lag_seconds, 3),
            "unpublished_seconds": round(unpublished, 3),
        }
        if last:
            values["last_applied_at"] = last.applied_at
        problem = _problem(status, state, unpublished, limit)
        failure, details = problem or ("", "")
        what = f"{failure}: {details}" if problem else _well(company in published, state, last)
        yield Result("fresh", company, problem is None, severity(spec, "fresh"), what, values, failure=failure)


def _problem(status: Status, state: CompanyStatus, unpublished: float, limit: float) -> tuple[str, str] | None:
    """The sort of failure, and what there is to say of it."""
    if status.problems:
        return "cannot be told", "; ".join(status.problems)
    if state.state == "paused":
        return None
    if state.lag_seconds > limit:
        who = status.deliverer or "nobody"
        why = "it is parked" if state.parked else f"{who} delivers"
        return "no delivery", f"its oldest change has waited in the hub for {state.lag_seconds:,.0f} s; {why}"
    if unpublished > limit:
        who = status.publisher or "nobody"
        return "nothing is published", f"commits have waited for {unpublished:,.0f} s; {who} publishes"
    return None


def _well(ever: bool, state: CompanyStatus, last: progress.Delivered | None) -> str:
    if state.state == "paused":
        return f"paused: its oldest change has waited for {state.lag_seconds:,.0f} s"
    if state.lag_seconds:
        return f"its oldest change has waited for {state.lag_seconds:,.1f} s"
    if last is None:
        return "its first changes are on their way" if ever else "no traffic yet: nothing was committed for it"
    if state.state == "idle":
        return f"no traffic: it has all that was committed for it, last at {last.committed_at:%Y-%m-%dT%H:%M:%SZ}"
    return "up to date"


def _unpublished_seconds(stream: Stream, status: Status, now: datetime) -> float:
    """For how long the oldest commit that is not published has waited; 0 if there is none."""
    behind = status.newest_version - status.published_version
    if behind <= 0:
        return 0.0
    try:
        commits = DeltaTable(stream.table).history(behind)
    except (DeltaError, OSError) as error:
        raise SourceError(f"the log of table {stream.table} cannot be read: {one_line(error)}") from error
    times = [
        commit["timestamp"] / 1000
        for commit in commits
        if "timestamp" in commit and commit["version"] > status.published_version
    ]
    return max(0.0, (now - datetime.fromtimestamp(min(times), UTC)).total_seconds()) if times else 0.0
