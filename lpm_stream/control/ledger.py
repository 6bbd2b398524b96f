"""The ledger: how many changes each company received in each minute, and how long they took."""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from lpm_stream.control.latency import Latencies
from lpm_stream.control.store import ControlStore, among, upsert_all
from lpm_stream.control.tables import ledger

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
    keys = [{"feed": feed, "company": company, "minute": minute} for company, minute in received]
    query = among(sa.select(ledger.c.company, ledger.c.minute, ledger.c.latency), keys)
    for company, minute, latency in connection.execute(query):
        if (company, minute) in received:
            received[company, minute].merge(Latencies.from_json(latency))
    values = [{"changes": one.changes, "latency": one.to_json()} for one in received.values()]
    upsert_all(connection, ledger, keys, values)


def read(store: ControlStore, feed: str, since: datetime | None = None) -> dict[str, Latencies]:
    """Company to the latencies of what it received, since an instant (to the minute) or ever."""
    query = sa.select(ledger.c.company, ledger.c.latency).where(ledger.c.feed == feed)
    if since is not None:
        query = query.where(ledger.c.minute >= since.replace(second=0, microsecond=0))
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
            ledger.c.minute >= since.replace(second=0, microsecond=0),
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
    """The longest latency in seconds of what a company received between two instants, to the minute."""
    query = sa.select(ledger.c.latency).where(
        ledger.c.feed == feed,
        ledger.c.company == company,
        ledger.c.minute >= begin.replace(second=0, microsecond=0),
        ledger.c.minute <= end,
        ledger.c.changes > 0,
    )
    with store.read() as connection:
        found = [Latencies.from_json(text).longest for text in connection.execute(query).scalars()]
    return max(found, default=None)
