"""Whether a company's table holds what the source table does: so many rows, with the same contents."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from lpm_stream.audit.digest import Digest, Held, held_rows, table_digests
from lpm_stream.audit.entitled import audit_entitled
from lpm_stream.audit.report import AuditReport, CompanyAudit, Counts
from lpm_stream.audit.run import audit
from lpm_stream.audit.scratch import Scratch, scratch_space
from lpm_stream.audit.table import pin
from lpm_stream.checks.result import MOST_EXAMPLES, Result, Value, severity
from lpm_stream.control import parking, progress, registry
from lpm_stream.control.registry import Served
from lpm_stream.errors import SourceError, TargetFaultError
from lpm_stream.feed.checks import CheckName
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.stream import Stream

_NAME: CheckName = "complete_against_source"
_SETTLE_SECONDS = 15.0  # for what is in hand while the stream runs
_FAULTS = ("missing", "extra", "different", "duplicated", "misrouted")
_MOST_VERSIONS = 8  # of the source table that are read whole


def complete_against_source(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:  # noqa: ARG001
    """Whether each company has exactly its rows of the source table, as of its watermark.

    Count and digest of a company's table are compared with those of the source table at the version of the
    watermark that the same snapshot shows. Where they differ, or cannot be compared like that, the rows are: of a
    parked company at its watermark's version; of any other at the newest, and what differs is looked at again for
    some seconds, so that what is under way does not count.

    Not to be called in a process that delivers (see `lpm_stream.audit.sqlite`).

    Raises:
        SourceError: if the source table cannot be read.
    """
    served = registry.served(stream.store, stream.settings, stream.spec.name)
    agreed = _agreed(stream, [served[company] for company in companies])
    yield from agreed.values()
    others = [company for company in companies if company not in agreed]
    parked = parking.read_parked(stream.store, stream.spec.name)
    delivered = progress.read_deliveries(stream.store, stream.spec.name)
    at: dict[int | None, list[Served]] = {}
    for company in others:
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


def _agreed(stream: Stream, companies: Sequence[Served]) -> dict[str, Result]:
    """The companies whose count and digest agree with the source table's, of the columns that they are to have."""
    entitled: dict[tuple[str, ...], list[Served]] = {}
    for one in companies:
        entitled.setdefault(one.entitlement.groups, []).append(one)
    agreed: dict[str, Result] = {}
    with scratch_space(stream.settings.home / "scratch") as scratch:
        for groups, those in entitled.items():
            spec = stream.spec.for_groups(groups)
            for version, held in _at_versions(stream, _held(spec, scratch, those)).items():
                try:
                    digests = table_digests(scratch, spec, pin(spec, stream.table, version, None), held)
                except SourceError:
                    continue  # that version's files are gone: what the rows show is told
                for company, one_held in held.items():
                    if one_held.digest == digests[company]:
                        agreed[company] = _agrees(stream, company, one_held.digest, one_held.version)
    return agreed


def _held(spec: FeedSpec, scratch: Scratch, companies: Sequence[Served]) -> dict[str, Held]:
    """What the databases hold that can be compared at a version."""
    found: dict[str, Held] = {}
    for served in companies:
        try:
            one = held_rows(scratch, spec, served.company, served.database)
        except TargetFaultError:
            continue  # the comparison of its rows tells why
        if one.version >= 0 and not one.between:
            found[served.company] = one
    return found


def _at_versions(stream: Stream, held: Mapping[str, Held]) -> dict[int, dict[str, Held]]:
    """Source version to the companies to compare with it: as few versions as show each company's watermark.

    Of a company for which nothing was published since its watermark, the table has held the same rows ever since.
    """
    cursor = progress.read_cursor(stream.store, stream.spec.name)
    published = progress.read_published(stream.store, stream.spec.name)  # after the cursor: it may only be newer
    versions: dict[int, dict[str, Held]] = {}
    for company, one in held.items():
        unchanged = cursor is not None and published.get(company) == one.version <= cursor.version
        version = cursor.version if cursor is not None and unchanged else one.version
        versions.setdefault(version, {})[company] = one
    largest = sorted(versions, key=lambda version: len(versions[version]), reverse=True)
    return {version: versions[version] for version in largest[:_MOST_VERSIONS]}


def _agrees(stream: Stream, company: str, digest: Digest, version: int) -> Result:
    counts = Counts(rows_in_table=digest.rows, rows_in_database=digest.rows)
    what = f"all {digest.rows:,} rows are there, as of version {version}"
    values: dict[str, Value] = {**asdict(counts), "version": version, "digest": str(digest)}
    return Result(_NAME, company, True, severity(stream.spec, _NAME), what, values)


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
    failure = "it is parked, and what the table held at its watermark can no longer be read"
    what = f"it is parked, and {error}"
    return Result(_NAME, company, False, severity(stream.spec, _NAME), what, failure=failure)


def _result(stream: Stream, report: AuditReport, one: CompanyAudit) -> Result:
    counts, version = one.counts, report.settled_version or report.version
    what = f"all {counts.rows_in_table:,} rows are there, as of version {version}"
    problem = [one.problem] if one.problem else []
    found = {name: count for name in _FAULTS if (count := getattr(counts, name))}
    if not one.clean:
        what = "; ".join([*problem, *(f"{count:,} {name}" for name, count in found.items())])
        what += f", as of version {version}"
    examples = [
        {"fault": fault, "key": ", ".join(map(str, example.key)), "columns": ", ".join(example.columns)}
        for fault, found in sorted(one.examples.items())
        for example in found
    ]
    return Result(
        _NAME,
        one.company,
        one.clean,
        severity(stream.spec, _NAME),
        what,
        {**vars(counts), "version": version},
        tuple(examples[:MOST_EXAMPLES]),
        failure="; ".join([*problem, *(f"rows {name}" for name in found)]),
    )
