"""Whether a company's table holds what the source table does, value by value."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from lpm_stream.audit.entitled import audit_entitled
from lpm_stream.audit.report import AuditReport, CompanyAudit
from lpm_stream.audit.run import audit
from lpm_stream.checks.result import MOST_EXAMPLES, Result, severity
from lpm_stream.control import parking, progress, registry
from lpm_stream.control.registry import Served
from lpm_stream.errors import SourceError
from lpm_stream.feed.checks import CheckName
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.stream import Stream

_SETTLE_SECONDS = 15.0  # for what is in hand while the stream runs


def complete_against_source(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:  # noqa: ARG001
    """Whether each company has exactly its rows of the source table, as of its watermark.

    A company that receives its changes is compared at the table's newest version, and what differs is looked at
    again for some seconds, so that what is under way does not count. One that is parked is compared at the version
    of its watermark: that it lacks what came later is for other checks to say.

    Not to be called in a process that delivers (see `lpm_stream.audit.sqlite`).

    Raises:
        SourceError: if the source table cannot be read.
    """
    served = registry.served(stream.store, stream.settings, stream.spec.name)
    parked = parking.read_parked(stream.store, stream.spec.name)
    delivered = progress.read_deliveries(stream.store, stream.spec.name)
    at: dict[int | None, list[Served]] = {}
    for company in companies:
        newest = delivered.get(company)
        version = newest.version if company in parked and newest else None
        at.setdefault(version, []).append(served[company])
    for version, those in at.items():
        try:
            report = _audit(stream, those, version)
        except SourceError as error:
            if version is None:
                raise
            yield from (_untold(stream, one.company, error) for one in those)
            continue
        yield from (_result(stream, report, one) for one in report.companies)


def _audit(stream: Stream, companies: Sequence[Served], version: int | None) -> AuditReport:
    def one(spec: FeedSpec, databases: Mapping[str, str]) -> AuditReport:
        return audit(
            spec,
            stream.table,
            databases,
            version=version,
            scratch=stream.settings.home / "scratch",
            settle_seconds=_SETTLE_SECONDS if version is None else 0,
        )

    return audit_entitled(stream.spec, companies, one)


def _untold(stream: Stream, company: str, error: SourceError) -> Result:
    name: CheckName = "complete_against_source"
    return Result(name, company, False, severity(stream.spec, name), f"it is parked, and {error}")


def _result(stream: Stream, report: AuditReport, one: CompanyAudit) -> Result:
    counts, version = one.counts, report.settled_version or report.version
    what = f"all {counts.rows_in_table:,} rows are there, as of version {version}"
    if not one.clean:
        faults = ("missing", "extra", "different", "duplicated", "misrouted")
        found = [f"{count:,} {name}" for name in faults if (count := getattr(counts, name))]
        what = "; ".join([*([one.problem] if one.problem else []), *found]) + f", as of version {version}"
    examples = [
        {"fault": fault, "key": ", ".join(map(str, example.key)), "columns": ", ".join(example.columns)}
        for fault, found in sorted(one.examples.items())
        for example in found
    ]
    return Result(
        "complete_against_source",
        one.company,
        one.clean,
        severity(stream.spec, "complete_against_source"),
        what,
        {**vars(counts), "version": version},
        tuple(examples[:MOST_EXAMPLES]),
    )
