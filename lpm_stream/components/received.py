"""What companies received, minute by minute, as the ledger has it."""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa

from lpm_stream.control.latency import Latencies
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import ledger

ByMinute = Mapping[datetime, Latencies]


def received_since(store: ControlStore, feed: str, since: datetime) -> dict[str, dict[datetime, Latencies]]:
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
