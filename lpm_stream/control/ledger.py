"""The ledger: how many changes each company received in each minute, and how long they took."""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from lpm_stream.control.latency import Latencies
from lpm_stream.control.store import ControlStore, upsert
from lpm_stream.control.tables import ledger


def record(connection: sa.Connection, feed: str, received: Mapping[tuple[str, datetime], Latencies]) -> None:
    """Adds to the ledger.

    Args:
        connection: a transaction of the control store.
        feed: the feed's name.
        received: (company, minute) to the latencies of the changes applied in that minute.
    """
    for (company, minute), latencies in received.items():
        key = {"feed": feed, "company": company, "minute": minute}
        matches = [ledger.c[name] == value for name, value in key.items()]
        earlier = connection.execute(sa.select(ledger.c.latency).where(*matches)).scalar()
        if earlier is not None:
            latencies.merge(Latencies.from_json(earlier))
        upsert(connection, ledger, key, {"changes": latencies.changes, "latency": latencies.to_json()})


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
