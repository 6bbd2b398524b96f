from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.control import ledger
from lpm_stream.control.latency import Latencies

MINUTE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def latencies(seconds: float, changes: int) -> Latencies:
    counted = Latencies()
    counted.add(seconds, changes)
    return counted


def test_what_is_recorded_adds_up(store):
    later = MINUTE + timedelta(minutes=1)
    with store.write() as connection:
        ledger.record(connection, "f", {("A", MINUTE): latencies(1, 10), ("B", MINUTE): latencies(2, 1)})
        ledger.record(connection, "other", {("A", MINUTE): latencies(9, 99)})
    with store.write() as connection:
        ledger.record(connection, "f", {("A", MINUTE): latencies(3, 5), ("A", later): latencies(4, 2)})
    found = ledger.read(store, "f")
    assert {company: one.changes for company, one in found.items()} == {"A": 17, "B": 1}
    assert found["A"].longest == 4
    assert {company: one.changes for company, one in ledger.read(store, "f", later).items()} == {"A": 2}
    assert ledger.read(store, "f", later + timedelta(seconds=59)).keys() == {"A"}
    assert ledger.read(store, "f", later + timedelta(minutes=1)) == {}
    assert ledger.read(store, "nothing") == {}
    assert ledger.read_totals(store, "f") == {"A": 17, "B": 1}
    assert ledger.read_totals(store, "other") == {"A": 99}


def test_a_transaction_that_fails_records_nothing(store):
    def work() -> None:
        with store.write() as connection:
            ledger.record(connection, "f", {("A", MINUTE): latencies(1, 10)})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert ledger.read(store, "f") == {}
    assert ledger.read_totals(store, "f") == {}
