from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.delivery import lanes
from lpm_stream.delivery.lanes import BATCH_ROWS, Lane, next_in_line
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


def waiting(company: str, rows: int) -> Lane:
    lane = Lane(company, 0)
    lane.put(received(1, rows=rows))
    return lane


def companies(chosen: list[Lane]) -> str:
    return "".join(lane.company for lane in chosen)


@pytest.mark.parametrize(
    ("free", "large", "expected"),
    [
        pytest.param(3, 0, "ABC", id="in turn, while large ones are at work already"),
        pytest.param(3, 1, "DAB", id="the largest first"),
        pytest.param(3, 2, "DBA", id="two of them"),
        pytest.param(3, 3, "DBA", id="small ones are not put off for want of large ones"),
        pytest.param(9, 3, "DBAC", id="nobody comes twice"),
        pytest.param(1, 2, "D", id="one slot"),
        pytest.param(0, 2, "", id="no slot"),
        pytest.param(-1, 2, "", id="more at work than there are slots for"),
        pytest.param(2, -1, "AB", id="more large ones at work than there are slots for them"),
    ],
)
def test_who_has_most_waiting_goes_first_into_some_of_the_slots(free, large, expected):
    ready = [waiting("A", 1), waiting("B", BATCH_ROWS), waiting("C", BATCH_ROWS - 1), waiting("D", BATCH_ROWS + 1)]
    assert companies(next_in_line(ready, free, large)) == expected
