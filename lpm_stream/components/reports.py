"""Which companies are reported to Dagster now, so that every change is reported once and none too often.

The ledger says what each company received in each minute, whoever delivered it; the sensor's cursor says how much
of that has been reported. So nothing is lost when a tick fails, and what another worker delivered shows as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from lpm_stream.components.cursors import read_cursor
from lpm_stream.control.latency import Latencies
from lpm_stream.control.ledger import ByMinute

LOOK_BACK = timedelta(hours=1)  # what was delivered before is not reported any more
_LATE = timedelta(minutes=1)  # the ledger is written a little behind time, perhaps into the minute before


class Reported(NamedTuple):
    """A company's last report, as short as can be: Dagster stores the cursor with every tick.

    Attributes:
        at: when it was (Unix seconds).
        rows: number of changes since `Cursor.since` that have been reported.
    """

    at: int
    rows: int


class Cursor(BaseModel):
    """How much of the ledger has been reported.

    Attributes:
        since: everything received in minutes before this one has been reported.
        reported: by company, as far as there is anything to remember.
        parked_at: when parked companies were last reported (Unix seconds).
    """

    model_config = ConfigDict(frozen=True)

    since: datetime
    reported: Mapping[str, Reported] = {}
    parked_at: int = 0

    @classmethod
    def read(cls, text: str | None, now: datetime) -> "Cursor":
        """The cursor that the last tick left; without one, all of the last hour is unreported.

        Raises:
            LpmStreamError: if it cannot be read.
        """
        earliest = _minute(now - LOOK_BACK)
        if not text:
            return cls(since=earliest)
        cursor = read_cursor(cls, text)
        return cursor if cursor.since >= earliest else cls(since=earliest, parked_at=cursor.parked_at)


@dataclass(frozen=True)
class Report:
    """What a company received since its last report.

    Attributes:
        company: its id.
        rows: number of changes.
        latencies: of the changes since the minute in which the oldest of them arrived.
    """

    company: str
    rows: int
    latencies: Latencies


def choose(
    cursor: Cursor, received: Mapping[str, ByMinute], now: datetime, window: timedelta, at_most: int
) -> tuple[list[Report], Cursor]:
    """Chooses the companies to report: those with unreported changes whose window is over, longest waiting first.

    Args:
        cursor: what has been reported.
        received: company to what it received in each minute since `cursor.since`, in order.
        now: an aware instant.
        window: a company is not reported again before this has passed.
        at_most: how many reports.

    Returns:
        The reports, and the cursor once they are made.
    """
    states = [
        _state(company, received.get(company, {}), cursor.reported.get(company))
        for company in sorted(received.keys() | cursor.reported.keys())
    ]
    unreported = sorted((one for one in states if one.unreported > 0), key=lambda one: one.last or cursor.since)
    due = {one.company: one for one in unreported if one.last is None or now - one.last >= window}
    due = dict(islice(due.items(), at_most))
    waiting = [one for one in unreported if one.company not in due]
    since = min([_minute(now - _LATE), *(one.first_unreported_minute() for one in waiting)])
    since = max(since, cursor.since)
    reported = {}
    for one in states:
        last = now if one.company in due else one.last
        rows = one.received_since(since) - (0 if one.company in due else one.unreported)
        if last is not None and (rows or now - last < window):
            reported[one.company] = Reported(int(last.timestamp()), rows)
    return [one.report() for one in due.values()], Cursor(
        since=since, reported=reported, parked_at=cursor.parked_at
    )


@dataclass(frozen=True)
class _State:
    """One company: what it received since the cursor, how much of that is unreported, and its last report."""

    company: str
    minutes: ByMinute
    unreported: int
    last: datetime | None

    def received_since(self, minute: datetime) -> int:
        return sum(latencies.changes for when, latencies in self.minutes.items() if when >= minute)

    def first_unreported_minute(self) -> datetime:
        """The first minute behind which there are fewer changes than are unreported."""
        behind = self.received_since(min(self.minutes))
        for minute, latencies in self.minutes.items():
            behind -= latencies.changes
            if behind < self.unreported:
                return minute
        raise ValueError(f"company {self.company!r} has nothing unreported")

    def report(self) -> Report:
        first = self.first_unreported_minute()
        latencies = Latencies()
        for minute, one in self.minutes.items():
            if minute >= first:
                latencies.merge(one)
        return Report(self.company, self.unreported, latencies)


def _state(company: str, minutes: ByMinute, reported: Reported | None) -> _State:
    total = sum(latencies.changes for latencies in minutes.values())
    if reported is None:
        return _State(company, minutes, total, None)
    return _State(company, minutes, total - reported.rows, datetime.fromtimestamp(reported.at, UTC))


def _minute(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)
