"""Publishes one commit: its changes checked, routed, packed and handed on as messages."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from lpm_stream.control.quarantine import Refused, of_nobody, payload_of, withheld
from lpm_stream.feed.contract import REASON
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.feed.schema import CHANGE_TYPE
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.codec import CONTENT_TYPES, to_wire
from lpm_stream.hub.message import Message
from lpm_stream.publish.contracts import check_for
from lpm_stream.publish.pack import Packer, Place
from lpm_stream.publish.route import route, travelling
from lpm_stream.source.delta import Changes


@dataclass
class VersionReport:
    """What one commit held beside the messages.

    Attributes:
        version: the commit's version.
        unknown: changes of companies that nobody has registered.
        refused: rows that break the contract or that no message can hold.
        held: source columns that the schema policy holds back.
        taken: those that it takes in, with their types.
        companies: those that messages were made for.
    """

    version: int
    unknown: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)
    held: tuple[str, ...] = ()
    taken: Mapping[str, str] = field(default_factory=dict)
    companies: tuple[str, ...] = ()


def messages_of(
    spec: FeedSpec,
    changes: Changes,
    place: Place,
    registered: Callable[[], Mapping[str, Entitlement]],
    max_body_bytes: int,
) -> Iterator[Message | VersionReport]:
    """The messages of one commit, and at the end its report.

    Args:
        spec: the feed.
        changes: the commit.
        place: what precedes it.
        registered: looks up the registered companies, and what they may get. It is called once the commit is
            known to exist: a company that registers, or is granted more, later pins a table version that holds
            this commit, so skipping it loses nothing.
        max_body_bytes: the hub's limit.
    """
    report = VersionReport(changes.version, held=changes.fit.held, taken=changes.fit.taken)
    companies = registered()
    refusals = _Refusals(spec, changes.version, companies, place.full)
    packer: Packer | None = None
    columns = [*changes.fit.schema, CHANGE_TYPE]
    for batch in changes.batches:
        if packer is None:
            committed_at = _committed_at(batch)
            packer = Packer(spec, changes.version, committed_at, place, max_body_bytes)
        checked = check_for(spec, changes.fit, travelling(spec, batch.select(columns)), companies)
        report.unknown.update(route(spec, checked.bad.filter(_says_company(spec)), companies).unknown)
        for company in refusals.add(checked.bad) | refusals.add(checked.stripped):
            packer.withhold(company)
        routed = route(spec, to_wire(checked.good, CONTENT_TYPES[spec.wire_format]), companies)
        report.unknown.update(routed.unknown)
        yield from packer.add(routed.by_company)
    if packer is not None:
        last = packer.finish()
        reason = pl.lit("larger than a message of the hub can be").alias(REASON)
        withheld = {company for rows in packer.oversized for company in refusals.add(rows.with_columns(reason))}
        yield from (message for message in last if message.company not in withheld)
        report.companies = packer.companies
        report.refused = refusals.kept()
    yield report


def _says_company(spec: FeedSpec) -> pl.Expr:
    return pl.col(spec.company_column).fill_null("") != ""


def _committed_at(batch: pl.DataFrame) -> datetime:
    """When the commit was made; not every writer says so, and then it counts from when it is read."""
    found: datetime | None = batch["_commit_timestamp"][0]
    return datetime.now(UTC) if found is None or found.timestamp() <= 0 else found.replace(tzinfo=UTC)


@dataclass
class _Refusals:
    """Rows of one commit that cannot travel: of each company as many as may go to quarantine at once.

    Those of companies that nobody has registered are not kept.
    """

    spec: FeedSpec
    version: int
    registered: Collection[str]
    full: frozenset[str]
    counts: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)
    withheld: set[str] = field(default_factory=set)

    def add(self, bad: pl.DataFrame) -> set[str]:
        """Takes rows with the text column `_reason` in; returns the companies that have too many."""
        limit = self.spec.quarantine_rows_per_minute
        company_of = pl.col(self.spec.company_column).fill_null("")
        for (found,), rows in bad.group_by(company_of, maintain_order=True):
            company = str(found)
            if company and company not in self.registered:
                continue
            room = 0 if company in self.full else max(limit - self.counts[company], 0)
            self.refused += broken(self.spec, self.version, rows.head(room))
            self.counts[company] += rows.height
        too_many = {company for company, count in self.counts.items() if count > limit or company in self.full}
        self.withheld = too_many - {""}
        return self.withheld

    def kept(self) -> list[Refused]:
        """What goes to quarantine; what does not is told of in one line for each company."""
        rest = [withheld(company, self.version, self.counts[company]) for company in sorted(self.withheld)]
        if more := self.counts[""] - sum(not one.company for one in self.refused):
            rest.append(of_nobody(self.version, more))
        return [*self.refused, *rest]


def broken(spec: FeedSpec, version: int, bad: pl.DataFrame) -> list[Refused]:
    """What goes to quarantine for rows that break the contract: ones with the text column `_reason`."""
    return [
        Refused(row[spec.company_column] or "", version, "publish", row.pop(REASON), payload_of(row))
        for row in bad.iter_rows(named=True)
    ]
