from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.delivery import lanes
from lpm_stream.delivery.lanes import Lane
from lpm_stream.hub.message import Received
from lpm_stream_tests.hub.messages import message

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def received(number: int, rows: int = 1, age: float = 0.0) -> Received:
    committed_at = NOW - timedelta(seconds=age)
    return Received(message("A", number, rows=rows, body=b"x" * 10, committed_at=committed_at), 0, number)


@pytest.fixture
def lane() -> Lane:
    return Lane("A", 0)


def test_a_transactions_worth_is_taken_in_order(lane, monkeypatch):
    monkeypatch.setattr(lanes, "BATCH_ROWS", 5)
    for number in range(1, 7):
        lane.put(received(number, rows=2))
    assert lane.waiting_bytes == 60
    assert [one.sequence_number for one in lane.take()] == [1, 2, 3]
    assert [one.sequence_number for one in lane.in_hand] == [1, 2, 3]
    assert lane.waiting_bytes == 30
    assert [one.sequence_number for one in lane.take()] == [4, 5, 6]
    assert lane.take() == []
    assert lane.waiting_bytes == 0


def test_the_first_undelivered_is_the_one_in_hand_before_those_that_wait(lane):
    assert lane.first_undelivered() is None
    lane.put(received(1))
    assert lane.first_undelivered() == received(1)
    lane.take()
    lane.put(received(2))
    assert lane.first_undelivered() == received(1)
    lane.finish()
    assert lane.first_undelivered() == received(2)


def test_recent_changes_are_applied_at_once(lane):
    assert not lane.is_ready(NOW)
    lane.put(received(1))
    assert lane.is_ready(NOW)


def test_a_backlog_is_collected_until_it_is_enough_or_has_waited(lane, monkeypatch):
    monkeypatch.setattr(lanes, "BATCH_ROWS", 4)
    lane.put(received(1, rows=2, age=3600))
    assert not lane.is_ready(NOW)
    lane.put(received(2, rows=2, age=3600))
    assert lane.is_ready(NOW)
    lane.take()
    lane.put(received(3, rows=1, age=3600))
    assert not lane.is_ready(NOW)
    monkeypatch.setattr(lanes, "_COLLECT_SECONDS", 0.0)
    assert lane.is_ready(NOW)


def test_what_is_left_to_the_own_reader_no_longer_waits(lane):
    lane.put(received(7))
    lane.leave_to_own_reader(8)
    assert (lane.first_undelivered(), lane.waiting_bytes, lane.waiting_rows, lane.joins_at) == (None, 0, 0, 8)
