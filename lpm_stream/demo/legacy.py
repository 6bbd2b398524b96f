"""The legacy system of a demo: it writes a flat file for each company and minute."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import yaml

from lpm_stream.alerts.run import run as look_for_alerts
from lpm_stream.checks.result import ON_FILES
from lpm_stream.checks.run import run_checks
from lpm_stream.checks.tell import Teller
from lpm_stream.control import reconciliations
from lpm_stream.control.reconciliations import Kept
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.load import override_path
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.listing import list_files
from lpm_stream.legacy.location import Location, open_location
from lpm_stream.legacy.names import Period, period_at, periods
from lpm_stream.legacy.reconcile import declared_format
from lpm_stream.legacy.simulate import Fault, Written, rows_at, rows_when_cut, write_file
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream

MOST_COMPANIES = 10  # have files: comparing those of more would keep a small machine from streaming

# Its minute; also on a machine that checks keep busy, the stream is to be sooner.
_ARRIVES_AFTER = timedelta(seconds=45)
_LEAST_ROWS = 3  # in a file with a fault
_LEAST_TRAFFIC = timedelta(seconds=15)  # before its end; a minute after it was inserted no row is corrected
_PAUSE_SECONDS = 0.5
_WRITTEN_BY_US = "# Written by lpm-stream demo: legacy files every minute instead of every hour.\n"
_OVERRIDES = {
    "legacy": {
        "period": "minutely",
        "start_format": "%Y%m%d%H%M",
        "cut_seconds": 0,
        "grace_seconds": 75,
        "settle_seconds": 2,
        "empty_periods": "none",  # nobody writes files between two demos
    },
    "checks": {"look_back_hours": 0.25},
}


def declare(settings: Settings, spec: FeedSpec) -> None:
    """Has a feed's legacy files come every minute in this home directory, for whoever works in it.

    Raises:
        LpmStreamError: if somebody has declared something else there.
    """
    if spec.legacy is None:
        return
    path = override_path(spec, settings.home)
    if path.exists() and not path.read_text(encoding="utf-8").startswith(_WRITTEN_BY_US):
        raise LpmStreamError(f"{path} is not the demo's: choose another directory with --dir")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_WRITTEN_BY_US + yaml.safe_dump(_OVERRIDES, sort_keys=False), encoding="utf-8")


class LegacySystem:
    """Writes files, at most one of them with a fault.

    Attributes:
        companies: whose files.
        written: all files of this demo, the oldest first.
        fault: the one that has the fault, if it is written already.
    """

    def __init__(
        self, stream: Stream, location: Location, companies: Sequence[str], fault: Fault | None, now: datetime
    ) -> None:
        self._stream = stream
        self._location = location
        self._form = declared_format(stream)
        self._wanted = fault
        self._next = period_at(self._form, now - _ARRIVES_AFTER)
        self._traffic_since: datetime | None = None
        self.companies = tuple(companies[:MOST_COMPANIES])
        self.written: list[Written] = []
        self.fault: Written | None = None

    def begin(self, now: datetime) -> None:
        """Puts right what an earlier demo has left, and writes the last file of the time before this one.

        Raises:
            LpmStreamError: if a file cannot be written, or compared again.
        """
        since = now - timedelta(hours=self._stream.spec.checks.look_back_hours)
        kept = reconciliations.read(self._stream.store, self._stream.spec.name, since=since)
        bad = {(one.company, one.period_start) for one in kept if _is_bad(one)}
        listing = list_files(self._location, self._form, self.companies, now)
        issues = {(file.company, file.period.start): file.named.issue + 1 for file in listing.files}
        last = {file.company: file.period for file in listing.files if file.period.end > since}
        previous = period_at(self._form, self._next.start - timedelta(seconds=1))
        for period in periods(self._form, since, now - _ARRIVES_AFTER):
            for company in self.companies:
                lacking = period_at(self._form, last[company].end) if company in last else previous
                key = (company, period.start)
                if period == lacking or key in bad:
                    self._write(company, period, issue=issues.get(key, 0))
        if bad:
            self._compare_again()

    def traffic_begins(self, now: datetime) -> None:
        """Notes since when there are rows to make a fault of."""
        self._traffic_since = now

    def step(self, now: datetime) -> None:
        """Writes the files that are due.

        Raises:
            LpmStreamError: if one cannot be written.
        """
        while self._next.end + _ARRIVES_AFTER <= now:
            for company in self.companies:
                self._write(company, self._next, fault=self._fault_of(company, self._next))
            self._next = period_at(self._form, self._next.end)

    def _fault_of(self, company: str, period: Period) -> Fault | None:
        """The fault wanted, if this is the first file that is fit for it.

        The row that is wrong is the file's first. It has to be as it was when the file was cut, and too old by now
        to be corrected any more: a correction would explain what is wrong.
        """
        if self._wanted is None or self.fault is not None or company != self.companies[0]:
            return None
        if self._traffic_since is None or period.end < self._traffic_since + _LEAST_TRAFFIC:
            return None
        spec, table = self._stream.spec, self._stream.table
        rows = rows_when_cut(spec, self._form, table, company, period)
        first = rows_at(spec, table, company, period, None).head(1)
        return self._wanted if rows.height >= _LEAST_ROWS and rows.head(1).equals(first) else None

    def _write(self, company: str, period: Period, *, fault: Fault | None = None, issue: int = 0) -> None:
        stream = self._stream
        written = write_file(stream.spec, stream.table, self._location, company, period, fault=fault, issue=issue)
        self.written.append(written)
        if fault is not None:
            self.fault = written

    def _compare_again(self) -> None:
        """What is right now is no cause for an alert any more, so that the next of its kind is one."""
        teller = Teller(self._stream)
        for result in run_checks(self._stream, self.companies, ON_FILES):
            teller.tell(result)
        at_once = self._stream.settings.model_copy(update={"alert_calm_seconds": 0.0})
        look_for_alerts(replace(self._stream, settings=at_once))


def _is_bad(one: Kept) -> bool:
    """Whether a check on files fails for it: it is wrong, or came before the stream had its records."""
    sooner = one.details["sooner"]
    return one.verdict != "passed" or (sooner is not None and sooner["least"] < 0)


@contextmanager
def legacy_system(stream: Stream, companies: Sequence[str], fault: Fault | None) -> Iterator[LegacySystem | None]:
    """The legacy system of a feed that has legacy files; it has not begun yet.

    Raises:
        LpmStreamError: if there are none to make the fault in, or no files can be written.
    """
    if stream.spec.legacy is None:
        if fault is not None:
            raise LpmStreamError(f"feed {stream.spec.name} has no legacy files to make the fault {fault} in")
        yield None
        return
    with open_location(stream.settings) as location:
        yield LegacySystem(stream, location, companies, fault, datetime.now(UTC))


def keep_writing(system: LegacySystem, over: threading.Event) -> None:
    """Writes each file when it is due, until `over` is set.

    Raises:
        LpmStreamError: if one cannot be written.
    """
    while not over.wait(_PAUSE_SECONDS):
        system.step(datetime.now(UTC))
