"""How a stream is doing, from what the control store and the hub know."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lpm_stream.control import backfills, leases, ledger, parking, progress, quarantine, registry
from lpm_stream.control.backfills import Backfill
from lpm_stream.control.latency import Latencies
from lpm_stream.control.parking import Parked
from lpm_stream.errors import HubError
from lpm_stream.source.failure import unreadable
from lpm_stream.stream import Stream

_WINDOW = timedelta(minutes=5)
_LOOKED_AT = 200  # messages of a partition, to tell how late each company is

State = Literal["streaming", "idle", "waiting", "parked", "paused"]


@dataclass(frozen=True)
class CompanyStatus:
    """One company.

    Attributes:
        company: its id.
        state: streaming (delivered within the last minutes), idle (nothing to deliver), waiting (registered, and
            nothing delivered yet), parked, paused (somebody wants its changes to wait).
        changes: number of changes delivered, ever.
        lag_seconds: age of its oldest published change that is not delivered; 0 if there is none.
        p50: seconds from commit to applied, over the last minutes; None without traffic.
        p99: likewise.
        version: its watermark, -1 if nothing was delivered yet.
        quarantined: number of its rows in quarantine.
        parked: why and since when, if it is.
        lacks_before: it lacks changes up to this version, from before it was registered; None if it lacks none.
        backfill: how far its loading from the table is, None if it is not being loaded.
        applied_at: when something was last delivered to it, None if nothing was yet.
    """

    company: str
    state: State
    changes: int
    lag_seconds: float
    p50: float | None
    p99: float | None
    version: int
    quarantined: int
    parked: Parked | None
    lacks_before: int | None
    backfill: Backfill | None
    applied_at: datetime | None

    @property
    def needs_attention(self) -> bool:
        """Whether there is something to be done for it, or being done."""
        is_well = self.parked is None and self.lacks_before is None and self.backfill is None
        return not is_well or self.quarantined > 0


@dataclass(frozen=True)
class Status:
    """One feed.

    Attributes:
        feed: its name.
        at: when this was seen.
        published_version: the cursor, -1 before the first publish.
        newest_version: the table's newest version.
        held_columns: source columns that the schema policy holds back.
        publisher: who publishes now, None if nobody does.
        deliverer: who delivers now, None if nobody does.
        hub_messages: messages in the hub that no company has got yet, parked ones left out.
        hub_messages_of: the same of each partition that can be read.
        problems: what keeps the table or the hub from being read, one line each.
        companies: all registered ones, sorted.
        unknown: companies in the stream that nobody has registered.
    """

    feed: str
    at: datetime
    published_version: int
    newest_version: int
    held_columns: tuple[str, ...]
    publisher: str | None
    deliverer: str | None
    hub_messages: int
    hub_messages_of: dict[int, int]
    problems: tuple[str, ...]
    companies: tuple[CompanyStatus, ...]
    unknown: tuple[progress.Unknown, ...]


@dataclass(frozen=True)
class Backlog:
    """What waits in the hub.

    Attributes:
        messages: how many, by partition.
        since: company to when its oldest waiting change was committed.
        oldest: of messages too far behind to be looked at one by one; no company's waits longer.
        problems: why partitions cannot be read.
    """

    messages: dict[int, int]
    since: dict[str, datetime]
    oldest: datetime | None
    problems: tuple[str, ...]


def read_status(stream: Stream) -> Status:
    """Looks at the stream once.

    Raises:
        LpmStreamError: if the control store cannot be read.
    """
    feed, now = stream.spec.name, datetime.now(UTC)
    holders = leases.holders(stream.store)
    cursor = progress.read_cursor(stream.store, feed)
    backlog = read_backlog(stream)
    newest, problems = _newest_version(stream, cursor)
    return Status(
        feed=feed,
        at=now,
        published_version=cursor.version if cursor else -1,
        newest_version=newest,
        held_columns=cursor.held_columns if cursor else (),
        publisher=leases.at_work(holders, "publish", feed),
        deliverer=leases.at_work(holders, "deliver", feed),
        hub_messages=sum(backlog.messages.values()),
        hub_messages_of=backlog.messages,
        problems=(*problems, *backlog.problems),
        companies=_companies(stream, now, backlog),
        unknown=tuple(progress.read_unknown(stream.store, feed)),
    )


def _companies(stream: Stream, now: datetime, backlog: Backlog) -> tuple[CompanyStatus, ...]:
    feed = stream.spec.name
    parked = parking.read_parked(stream.store, feed)
    delivered = progress.read_deliveries(stream.store, feed)
    ever = ledger.read_totals(stream.store, feed)
    lately = ledger.read(stream.store, feed, now - _WINDOW)
    quarantined = quarantine.counts(stream.store, feed)
    incomplete = progress.read_incomplete(stream.store, feed)
    loading = {
        company: one for company, one in backfills.read(stream.store, feed).items() if one.finished_at is None
    }
    holders = leases.holders(stream.store)
    loaders = {name for name, holder in holders.items() if holder.startswith("backfill")}  # and not a replay
    paused = registry.paused(stream.store)
    statuses = []
    for company in registry.registered(stream.store, stream.spec.name):
        recent = lately.get(company, Latencies())
        newest = delivered.get(company)
        state = "paused" if company in paused else _state(company in parked, newest, now)
        waiting_since = backlog.since.get(company, backlog.oldest)
        if company in parked:
            waiting_since = parked[company].committed_at
        statuses.append(
            CompanyStatus(
                company=company,
                state=state,
                changes=ever.get(company, 0),
                lag_seconds=max(0.0, (now - waiting_since).total_seconds()) if waiting_since else 0.0,
                p50=recent.quantile(0.5),
                p99=recent.quantile(0.99),
                version=newest.version if newest else -1,
                quarantined=quarantined.get(company, 0),
                parked=parked.get(company),
                lacks_before=incomplete.get(company),
                backfill=loading.get(company) if leases.lease_name("backfill", feed, company) in loaders else None,
                applied_at=newest.applied_at if newest else None,
            )
        )
    return tuple(statuses)


def _state(is_parked: bool, newest: progress.Delivered | None, now: datetime) -> State:
    if is_parked:
        return "parked"
    if newest is None:
        return "waiting"
    return "streaming" if now - newest.applied_at < _WINDOW else "idle"


def _newest_version(stream: Stream, cursor: progress.Cursor | None) -> tuple[int, list[str]]:
    """The table's newest version, whether or not a publisher runs, and why it cannot be read."""
    try:
        return DeltaTable(stream.table).version(), []
    except (DeltaError, OSError) as error:
        known = cursor.newest_version if cursor else -1
        return known, [str(unreadable(stream.table, error))]


def read_backlog(stream: Stream) -> Backlog:
    """Looks at what waits behind the checkpoints; they are saved once a second, so a moment's work may show."""
    through = progress.read_checkpoints(stream.store, stream.spec.name)
    messages: dict[int, int] = {}
    problems: list[str] = []
    since: dict[str, datetime] = {}
    beyond: list[datetime] = []
    try:
        partitions = stream.hub.partitions()
    except HubError as error:
        return Backlog({}, {}, None, (str(error),))
    for partition in partitions:
        after = through.get(partition, 0)
        try:
            waiting = stream.hub.end(partition) - after
            first = stream.hub.receive(partition, after, _LOOKED_AT) if waiting > 0 else []
        except HubError as error:
            problems.append(str(error))
            continue
        messages[partition] = max(waiting, 0)
        for one in first:
            since.setdefault(one.message.company, one.message.committed_at)
        if waiting > len(first) > 0:
            beyond.append(first[-1].message.committed_at)
    return Backlog(messages, since, min(beyond, default=None), tuple(problems))
