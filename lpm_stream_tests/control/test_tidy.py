from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from lpm_stream.control import ledger
from lpm_stream.control.latency import Latencies
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import ledger as minutes
from lpm_stream.control.tidy import tidy_ledger

DAY = datetime(2026, 1, 2, tzinfo=UTC)
NOW = DAY + timedelta(days=10, hours=5)
KEEP = timedelta(days=8)  # days that ended before 2026-01-04


def record(store: ControlStore, feed: str, company: str, at: datetime, received: Mapping[float, int]) -> None:
    latencies = Latencies()
    for seconds, changes in received.items():
        latencies.add(seconds, changes)
    with store.write() as connection:
        ledger.record(connection, feed, {(company, at): latencies})


def minutes_left(store: ControlStore, feed: str) -> Sequence[datetime]:
    with store.read() as connection:
        query = sa.select(minutes.c.minute).where(minutes.c.feed == feed).order_by(minutes.c.minute)
        return connection.execute(query).scalars().all()


def test_old_minutes_become_days_and_nothing_is_lost(store):
    kept = DAY + timedelta(days=2)
    for hour, minute in [(0, 0), (0, 59), (7, 3), (23, 59)]:
        record(store, "f", "A", DAY + timedelta(hours=hour, minutes=minute), {1 + hour: 10})
    record(store, "f", "B", DAY + timedelta(days=1), {2: 7})
    record(store, "f", "A", kept, {3: 5})
    record(store, "other", "A", DAY, {4: 1})
    before = ledger.read_by_day(store, "f", DAY)
    assert [one.changes for one in before.values()] == [40, 7, 5]

    assert tidy_ledger(store, KEEP, NOW) == 6
    assert minutes_left(store, "f") == [kept]
    assert minutes_left(store, "other") == []
    assert ledger.read_by_day(store, "f", DAY + timedelta(hours=9)) == before
    assert ledger.read_by_day(store, "f", kept) == {kept: before[kept]}
    assert [one.changes for one in ledger.read_by_day(store, "f", DAY, "A").values()] == [40, 5]
    assert ledger.read_totals(store, "f") == {"A": 45, "B": 7}
    assert ledger.longest(store, "f", "A", DAY + timedelta(hours=20), DAY + timedelta(hours=21)) == 24
    assert ledger.longest(store, "f", "A", kept, NOW) == 3
    assert ledger.longest(store, "f", "A", kept + timedelta(days=1), NOW) is None
    assert tidy_ledger(store, KEEP, NOW) == 0


def test_minutes_that_come_late_are_added_to_their_day(store):
    record(store, "f", "A", DAY, {1: 10})
    tidy_ledger(store, KEEP, NOW)
    record(store, "f", "A", DAY, {9: 5})
    assert tidy_ledger(store, KEEP, NOW) == 1
    (day,) = ledger.read_by_day(store, "f", DAY).values()
    assert (day.changes, day.longest) == (15, 9)
