"""The ledger: how many changes each company received in each minute, and how long they took.

What is too old to be kept by the minute is kept by the UTC day (`lpm_stream.control.tidy`), and how many changes
a company ever received in a total of its own, so that nobody has to add up the ledger to know it.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import sqlalchemy as sa

from lpm_stream.control.latency import Latencies
from lpm_stream.control.store import ControlStore, among, upsert_all
from lpm_stream.control.tables import ledger, ledger_days, ledger_totals

ByMinute = Mapping[datetime, Latencies]


def record(connection: sa.Connection, feed: str, received: Mapping[tuple[str, datetime], Latencies]) -> None:
    """Adds to the ledger.

    Args:
        connection: a transaction of the control store.
        feed: the feed's name.
        received: (company, minute) to the latencies of the changes applied in that minute; what the ledger
            has of the same minutes is added to them.
    """
    if not received:
        return
    _add_to_totals(connection, feed, received)
    keys = [{"feed": feed, "company": company, "minute": minute} for company, minute in received]
    query = sa.select(ledger.c.company, ledger.c.minute, ledger.c.latency).where(among(ledger, keys))
    for company, minute, latency in connection.execute(query):
        if (company, minute) in received:
            received[company, minute].merge(Latencies.from_json(latency))
    values = [{"changes": one.changes, "latency": one.to_json()} for one in received.values()]
    upsert_all(connection, ledger, keys, values)


def _add_to_totals(
    connection: sa.Connection, feed: str, received: Mapping[tuple[str, datetime], Latencies]
) -> None:
    changes: Counter[str] = Counter()
    for (company, _), latencies in received.items():
        changes[company] += latencies.changes
    keys = [{"feed": feed, "company": company} for company in changes]
    query = sa.select(ledger_totals.c.company, ledger_totals.c.changes).where(among(ledger_totals, keys))
    for company, so_far in connection.execute(query):
        changes[company] += so_far
    upsert_all(connection, ledger_totals, keys, [{"changes": one} for one in changes.values()])


def read_totals(store: ControlStore, feed: str) -> dict[str, int]:
    """Company to the number of changes that it ever received."""
    query = sa.select(ledger_totals.c.company, ledger_totals.c.changes).where(ledger_totals.c.feed == feed)
    with store.read() as connection:
        return dict(connection.execute(query).all())


def read_by_day(
    store: ControlStore, feed: str, since: datetime, company: str | None = None
) -> dict[datetime, Latencies]:
    """UTC day to the latencies of what one company, or all, received, from the day of `since` on, in order."""
    since = _day(since)
    days: dict[datetime, Latencies] = {}
    with store.read() as connection:
        for table, when in ((ledger_days, ledger_days.c.day), (ledger, ledger.c.minute)):
            query = sa.select(when, table.c.latency).where(table.c.feed == feed, when >= since)
            if company is not None:
                query = query.where(table.c.company == company)
            for instant, latency in connection.execute(query):
                days.setdefault(_day(instant), Latencies()).merge(Latencies.from_json(latency))
    return dict(sorted(days.items()))


def _day(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def read(store: ControlStore, feed: str, since: datetime | None = None) -> dict[str, Latencies]:
    """Company to the latencies of what it received, since an instant (to the minute) or as far as that is kept."""
    query = sa.select(ledger.c.company, ledger.c.latency).where(ledger.c.feed == feed)
    if since is not None:
        query = query.where(ledger.c.minute >= _minute(since))
    totals: dict[str, Latencies] = {}
    with store.read() as connection:
        for company, latency in connection.execute(query):
            totals.setdefault(company, Latencies()).merge(Latencies.from_json(latency))
    return totals


def read_by_minute(store: ControlStore, feed: str, since: datetime) -> dict[str, dict[datetime, Latencies]]:
    """Company to minute to the latencies of what it received, from the minute of `since` on, in order."""
    query = (
        sa.select(ledger.c.company, ledger.c.minute, ledger.c.latency)
        .where(
            ledger.c.feed == feed,
            ledger.c.minute >= _minute(since),
            ledger.c.changes > 0,
        )
        .order_by(ledger.c.company, ledger.c.minute)
    )
    received: dict[str, dict[datetime, Latencies]] = {}
    with store.read() as connection:
        for company, minute, latency in connection.execute(query):
            received.setdefault(company, {})[minute] = Latencies.from_json(latency)
    return received


def longest(store: ControlStore, feed: str, company: str, begin: datetime, end: datetime) -> float | None:
    """The longest latency in seconds of what a company received between two instants.

    To the minute, or of whole days as far as the minutes are not kept any more: never less than it was.
    """
    begins = ((ledger, ledger.c.minute, _minute(begin)), (ledger_days, ledger_days.c.day, _day(begin)))
    found: list[float] = []
    with store.read() as connection:
        for table, when, first in begins:
            query = sa.select(table.c.latency).where(
                table.c.feed == feed, table.c.company == company, when >= first, when <= end, table.c.changes > 0
            )
            found += [Latencies.from_json(text).longest for text in connection.execute(query).scalars()]
    return max(found, default=None)


def _minute(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)
