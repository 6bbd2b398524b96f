"""Keeps the control store small: minutes of the ledger that nobody looks at any more are added up per day.

That is all that grows with time: what is in quarantine is removed with its replay or discard, incidents and
notifications are forgotten by the alerts themselves, and of everything else there is one row a company. The
results of reconciliations are kept: they are the history that they are there for.
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from lpm_stream.control.latency import Latencies
from lpm_stream.control.store import ControlStore, among, upsert_all
from lpm_stream.control.tables import ledger, ledger_days, ledger_totals

_AT_ONCE = timedelta(hours=1)  # of the ledger in one transaction, since the deliverer waits for it


def tidy_ledger(store: ControlStore, keep: timedelta, now: datetime | None = None) -> int:
    """Adds up, per company and UTC day, minutes of days that ended longer ago than is kept, and removes them.

    It may be stopped at any time, and several may do it at once.

    Args:
        store: the control store.
        keep: how long minutes are kept.
        now: the present.

    Returns:
        The number of minutes removed.
    """
    end = ((now or datetime.now(UTC)) - keep).replace(hour=0, minute=0, second=0, microsecond=0)
    with store.read() as connection:
        feeds = connection.execute(sa.select(ledger_totals.c.feed).distinct()).scalars().all()
    return sum(_tidy_feed(store, feed, end) for feed in feeds)


def _tidy_feed(store: ControlStore, feed: str, end: datetime) -> int:
    removed = 0
    oldest = sa.select(sa.func.min(ledger.c.minute)).where(ledger.c.feed == feed)
    while True:
        with store.read() as connection:
            minute = connection.execute(oldest).scalar()
        if minute is None or minute >= end:
            return removed
        hour = minute.replace(minute=0)
        with store.write() as connection:
            removed += _move(connection, feed, hour, hour + _AT_ONCE)


def _move(connection: sa.Connection, feed: str, begin: datetime, end: datetime) -> int:
    """Adds the minutes of a part of one day to that day, and removes them."""
    day = begin.replace(hour=0)
    old = sa.and_(ledger.c.feed == feed, ledger.c.minute >= begin, ledger.c.minute < end)
    added: dict[str, Latencies] = {}
    for company, latency in connection.execute(sa.select(ledger.c.company, ledger.c.latency).where(old)):
        added.setdefault(company, Latencies()).merge(Latencies.from_json(latency))
    if not added:
        return 0
    keys = [{"feed": feed, "company": company, "day": day} for company in added]
    query = sa.select(ledger_days.c.company, ledger_days.c.latency).where(among(ledger_days, keys))
    for company, latency in connection.execute(query):
        added[company].merge(Latencies.from_json(latency))
    values = [{"changes": one.changes, "latency": one.to_json()} for one in added.values()]
    upsert_all(connection, ledger_days, keys, values)
    return connection.execute(ledger.delete().where(old)).rowcount
