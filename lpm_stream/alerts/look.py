"""What is wrong with a stream now, as the control store and the hub tell it."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.pages import company_page, hub_page, sensor_page
from lpm_stream.alerts.raised import CHECK_FAILED, PUBLISHING_STOPPED, read_raised
from lpm_stream.checks.result import check_names
from lpm_stream.control import leases, parking, progress, quarantine, registry, tables
from lpm_stream.control.parking import Parked
from lpm_stream.feed.spec import LONGEST_SLO, FeedSpec
from lpm_stream.status import Backlog, read_backlog
from lpm_stream.stream import Stream

# Between two ticks of a Dagster sensor nobody holds the lease for some seconds, longer while code is reloaded.
_NOBODY_FOR = timedelta(seconds=90)
_TIMES_THE_SLO = 5  # a company that waits so much longer than it may is not merely slow
_MENDS_ITSELF_WITHIN = timedelta(seconds=15)  # a database or a storage that was restarted
_DOES: dict[leases.Role, str] = {"publish": "publishes", "deliver": "delivers"}


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        causes: what is wrong, each kind and company once.
        unseen: sorts of causes of which nothing can be said now.
        unseen_of: sort and company, likewise, of single companies.
    """

    causes: tuple[Cause, ...]
    unseen: frozenset[str] = frozenset()
    unseen_of: frozenset[tuple[str, str]] = frozenset()

    def has_missed(self, cause: Cause) -> bool:
        """Whether nothing can be said of a cause, so that it may be there though it was not found."""
        return cause.sort in self.unseen or (cause.sort, cause.company) in self.unseen_of


def look(stream: Stream) -> Look:
    """Looks at a stream once. Of companies that do not receive it, or not any more, nothing is wrong.

    Raises:
        LpmStreamError: if the control store cannot be read.
    """
    now = datetime.now(UTC)
    raised = [
        cause
        for cause in read_raised(stream.store, stream.spec.name)
        if not _may_mend_itself(cause, now) and _may_be_withdrawn(cause, stream.spec)
    ]
    parked = parking.read_parked(stream.store, stream.spec.name)
    nobody = list(_nobody_works(stream, now))
    if any(cause.kind == PUBLISHING_STOPPED for cause in raised):
        nobody = [cause for cause in nobody if cause.kind != "nobody_publishes"]
    backlog = read_backlog(stream)
    nobody_delivers = any(cause.kind == "nobody_delivers" for cause in nobody)  # and so to no company
    unseen = {"undelivered"} if backlog.problems or nobody_delivers else set()
    causes = [*raised, *nobody, *_parked(stream, parked, now), *_hub(stream, backlog, now)]
    causes += _quarantined(stream, {(cause.kind, cause.company) for cause in causes}, now)
    told = {cause.company for cause in raised if cause.kind == f"{CHECK_FAILED}:fresh"} | set(parked)
    if not unseen:
        causes += _undelivered(stream, told, backlog, now)
    served = {"", *registry.registered(stream.store, stream.spec.name)}
    told = (told & served) - registry.paused(stream.store)
    return Look(
        tuple(cause for cause in causes if cause.company in served),
        frozenset(unseen),
        frozenset(("undelivered", company) for company in told),
    )


def _may_mend_itself(cause: Cause, now: datetime) -> bool:
    return cause.kind == PUBLISHING_STOPPED and now - cause.since < _MENDS_ITSELF_WITHIN


def _may_be_withdrawn(cause: Cause, spec: FeedSpec) -> bool:
    """Whether somebody will: of a check that the feed no longer has nobody will say that it passes."""
    sort, _, check = cause.kind.partition(":")
    return sort != CHECK_FAILED or check in check_names(spec)


def _nobody_works(stream: Stream, now: datetime) -> Iterator[Cause]:
    feed = stream.spec.name
    if not registry.registered(stream.store, stream.spec.name):
        return  # nothing has begun
    holders = leases.holders(stream.store)
    with stream.store.read() as connection:
        rows = connection.execute(sa.select(tables.leases.c.name, tables.leases.c.expires_at))
        last_held = [(row.name, row.expires_at) for row in rows]
        begun = connection.execute(sa.select(sa.func.min(tables.companies.c.registered_at))).scalar() or now
    for role, does in _DOES.items():
        last = max((until for name, until in last_held if leases.is_for(name, role, feed)), default=begun)
        since = min(last, now)
        if leases.at_work(holders, role, feed) or now - since < _NOBODY_FOR:
            continue
        yield Cause(
            kind=f"nobody_{does}",
            company="",
            what=f"no worker {does} feed {feed}",
            since=since,
            affected="every company of the feed: nothing new is delivered to any of them",
            likely=f"Dagster's daemon is down, sensor {role}_{feed} is off or fails, or the relay was stopped",
            command=f"lpm-stream status --feed {feed}",
            page=sensor_page(f"{role}_{feed}"),
        )


def _parked(stream: Stream, parked: dict[str, Parked], now: datetime) -> Iterator[Cause]:
    feed = stream.spec.name
    prefix = f"{leases.lease_name('backfill', feed)}:"
    loading = any(name.startswith(prefix) for name in leases.holders(stream.store))
    paused = registry.paused(stream.store)
    too_long = _too_long(stream)
    for company, state in parked.items():
        if company in paused:
            continue  # somebody wants it so
        if state.kind == "held" and loading:
            continue  # a backfill is at work on it, or comes to it
        patience = too_long(company) if state.reason == parking.RESUMED else _MENDS_ITSELF_WITHIN
        if state.kind != "gap" and now - state.since < patience:
            continue
        kind = "gap" if state.kind == "gap" else "parked"
        likely, command = _remedy(feed, state)
        if "in quarantine" in state.reason:
            kind = "quarantine_full"
        yield Cause(
            kind=kind,
            company=company,
            what=f"company {company!r} is parked: {state.reason}",
            since=state.since,
            affected=f"company {company!r}: nothing is delivered to it; all others go on",
            likely=likely,
            command=command,
            page=company_page(feed, company),
        )


def _remedy(feed: str, state: Parked) -> tuple[str, str]:
    """The likely cause of a parking, and what to type."""
    company = shlex.quote(state.company)
    if "quarantine" in state.reason:
        return (
            "rows break the contract, or a rule of the company's own table",
            f"lpm-stream quarantine list --company {company} --feed {feed}",
        )
    if state.kind == "gap":
        return (
            "the hub no longer keeps what the company lacks, or lost it; only the source table has it still",
            f"lpm-stream resync --company {company} --feed {feed}",
        )
    if state.kind == "held":
        return (
            "a backfill or resync was stopped before it was through with the company",
            f"lpm-stream backfill {company} --feed {feed}",
        )
    if state.reason == parking.RESUMED:
        return (
            "it waited for long, or its database is slow; it catches up by itself",
            f"lpm-stream status --feed {feed}",
        )
    if state.reason == parking.SLOW:
        return (
            "its database is overloaded or far away; it catches up by itself once it is quicker",
            f"lpm-stream status --feed {feed}",
        )
    return (
        "the company's database is down, locked, full, or was changed; it catches up by itself once it is mended",
        f"lpm-stream status --feed {feed}",
    )


def _quarantined(stream: Stream, known: set[tuple[str, str]], now: datetime) -> Iterator[Cause]:
    feed = stream.spec.name
    with stream.store.read() as connection:
        full = quarantine.full(connection, stream.spec)
    for company in sorted(full - {""}):
        if ("quarantine_full", company) in known:
            continue
        yield Cause(
            kind="quarantine_full",
            company=company,
            what=f"company {company!r} has more rows in quarantine than the feed allows "
            f"({stream.spec.quarantine_rows:,}, or {stream.spec.quarantine_rows_per_minute:,} new in a minute)",
            since=now,
            affected=f"company {company!r}: it lacks these rows, and is parked with the next that is refused",
            likely="rows break the contract, or a rule of the company's own table",
            command=f"lpm-stream quarantine list --company {shlex.quote(company)} --feed {feed}",
            page=company_page(feed, company),
        )


def _hub(stream: Stream, backlog: Backlog, now: datetime) -> Iterator[Cause]:
    if backlog.problems:
        yield Cause(
            kind="hub_unreadable",
            company="",
            what="; ".join(backlog.problems),
            since=now,
            affected="all companies whose messages are in that part of the hub",
            likely="the hub does not answer or is set up wrong, or a file of it is damaged",
            command=f"lpm-stream status --feed {stream.spec.name}",
            page=hub_page(stream.spec.name),
        )


def _undelivered(stream: Stream, told: set[str], backlog: Backlog, now: datetime) -> Iterator[Cause]:
    feed = stream.spec.name
    too_long = _too_long(stream)
    for company in sorted(_lacking(stream) - told - registry.paused(stream.store)):
        since = backlog.since.get(company, backlog.oldest)
        if since is None or now - since < too_long(company):
            continue
        yield Cause(
            kind="undelivered",
            company=company,
            what=f"company {company!r} lacks changes that were published more than "
            f"{too_long(company).total_seconds():g} s ago",
            since=since,
            affected=f"company {company!r}: what it has is that much too old",
            likely="the deliverer is behind after a stop or a large commit, or its machine is too small",
            command=f"lpm-stream status --feed {feed}",
            page=company_page(feed, company),
        )


def _too_long(stream: Stream) -> Callable[[str], timedelta]:
    """Tells of a company for how long it may lack changes, until people are told."""
    promised = registry.slos(stream.store)

    def too_long(company: str) -> timedelta:
        slo_seconds = promised.get(company, stream.spec.slo_seconds)
        return timedelta(seconds=_TIMES_THE_SLO * min(LONGEST_SLO, slo_seconds))  # more may be stored of old

    return too_long


def _lacking(stream: Stream) -> set[str]:
    """The registered companies for which more was published than was delivered."""
    feed = stream.spec.name
    cursor = progress.read_cursor(stream.store, feed)
    delivered = progress.read_deliveries(stream.store, feed)
    published = progress.read_published(stream.store, feed)
    if cursor is None:
        return set()

    def lacks(company: str) -> bool:
        newest = delivered.get(company)
        place = (newest.epoch, newest.version) if newest else (-1, -1)
        return company in published and place < (cursor.epoch, published[company])

    return set(filter(lacks, registry.registered(stream.store, stream.spec.name)))
