from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.components.reports import Cursor, Report, choose
from lpm_stream.control.latency import Latencies
from lpm_stream.errors import LpmStreamError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = timedelta(seconds=30)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Ledger:
    """A ledger in memory, and the sensor that reports it."""

    def __init__(self, *, window: timedelta = WINDOW, at_most: int = 100) -> None:
        self.cursor: str | None = None
        self.minutes: dict[str, dict[datetime, Latencies]] = {}
        self.window = window
        self.at_most = at_most

    def receive(self, seconds: float, company: str, rows: int, latency: float = 1.0) -> None:
        minute = at(seconds).replace(second=0)
        self.minutes.setdefault(company, {}).setdefault(minute, Latencies()).add(latency, rows)

    def tick(self, seconds: float) -> dict[str, Report]:
        cursor = Cursor.read(self.cursor, at(seconds))
        received = {
            company: {minute: one for minute, one in sorted(minutes.items()) if minute >= cursor.since}
            for company, minutes in self.minutes.items()
        }
        reports, cursor = choose(cursor, received, at(seconds), self.window, self.at_most)
        self.cursor = cursor.model_dump_json()
        return {report.company: report for report in reports}

    def rows(self, seconds: float) -> dict[str, int]:
        return {company: report.rows for company, report in self.tick(seconds).items()}


def test_what_arrives_between_reports_is_in_the_next():
    ledger = Ledger()
    ledger.receive(1, "A", 10)
    assert ledger.rows(2) == {"A": 10}
    ledger.receive(10, "A", 5)
    assert ledger.rows(15) == {}
    ledger.receive(20, "A", 7)
    ledger.receive(20, "B", 1)
    assert ledger.rows(29) == {"B": 1}
    assert ledger.rows(32) == {"A": 12}
    assert ledger.rows(62) == {}


def test_only_companies_that_received_something_are_reported():
    ledger = Ledger()
    ledger.receive(1, "A", 10)
    assert ledger.rows(2) == {"A": 10}
    for tick in range(1, 300):
        assert ledger.rows(2 + tick * 15) == {}
    assert Cursor.read(ledger.cursor, at(2 + 300 * 15)).reported == {}


def test_every_change_is_reported_once_whatever_the_rhythm():
    ledger = Ledger(window=timedelta(seconds=45), at_most=2)
    received = dict.fromkeys("ABCDE", 0)
    reported = dict.fromkeys("ABCDE", 0)
    for tick in range(1, 200):
        now = tick * 13.7
        for index, company in enumerate("ABCDE"):
            if tick < 150 and tick % (index + 1) == 0:
                ledger.receive(now - 13.7, company, tick)  # perhaps in the minute before
                received[company] += tick
        for company, rows in ledger.rows(now).items():
            reported[company] += rows
    assert reported == received


def test_a_window_of_several_minutes_holds():
    ledger = Ledger(window=timedelta(minutes=5))
    ticks = []
    for tick in range(1, 120):
        ledger.receive(tick * 15 - 5 if tick != 30 else 0, "A", 1)
        if ledger.rows(tick * 15):
            ticks.append(tick * 15)
    assert ticks == [15, 315, 615, 915, 1215, 1515]


def test_who_waits_longest_comes_first():
    ledger = Ledger(window=timedelta(0), at_most=1)
    order: list[str] = []
    for tick in range(1, 7):
        for company in "ABC":
            ledger.receive(tick * 15, company, 1)
        order += ledger.rows(tick * 15 + 1)
    assert order == ["A", "B", "C", "A", "B", "C"]


def test_latencies_are_those_of_the_reported_minutes():
    ledger = Ledger()
    ledger.receive(1, "A", 10, latency=50.0)
    ledger.tick(2)
    ledger.receive(70, "A", 10, latency=0.5)
    report = ledger.tick(71)["A"]
    assert report.latencies.summary()["max"] == 0.5


def test_what_is_older_than_an_hour_is_left_out():
    ledger = Ledger()
    ledger.receive(-7200, "A", 10)
    ledger.receive(-60, "A", 3)
    assert ledger.rows(0) == {"A": 3}
    ledger.receive(10, "A", 4)
    ledger.receive(7200, "A", 5)
    assert ledger.rows(7300) == {"A": 5}


def test_a_control_store_set_back_is_survived():
    ledger = Ledger()
    ledger.receive(1, "A", 10)
    ledger.tick(2)
    ledger.minutes["A"][NOON] = Latencies()
    ledger.minutes["A"][NOON].add(1.0, 4)
    assert ledger.rows(60) == {}


def test_a_cursor_of_another_kind_is_a_clear_error():
    with pytest.raises(LpmStreamError, match="reset it"):
        Cursor.read("17", NOON)
