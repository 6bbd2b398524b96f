"""What a demo sees of its checks and alerts, while it runs and at its end."""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.error import URLError

from lpm_stream.alerts import outbox
from lpm_stream.alerts.incidents import Incident, read_incidents
from lpm_stream.alerts.raised import CHECK_FAILED
from lpm_stream.checks.result import check_names
from lpm_stream.control import reconciliations
from lpm_stream.demo.dagster import Dagster
from lpm_stream.demo.legacy import LegacySystem
from lpm_stream.demo.receiver import CHANNEL
from lpm_stream.partition import partition_key
from lpm_stream.stream import Stream

FAULTY: str = "complete_against_legacy"  # the check that is to find what is wrong with a file
_LOOKS_EVERY_SECONDS = 5.0  # at what Dagster knows


@dataclass(frozen=True)
class CheckResult:
    """The newest result of a check for a company; `severity`, WARN or ERROR, is that of its failure."""

    name: str
    company: str
    passed: bool
    severity: str


@dataclass(frozen=True)
class Alert:
    """An incident of the demo's time.

    Attributes:
        cause: its kind, such as `check_failed:complete_against_legacy`.
        company: whose; None if it is about the feed.
        state: open, acknowledged or resolved.
        sent: how many messages the demo's receiver has taken that tell of its opening.
    """

    cause: str
    company: str | None
    state: str
    sent: int


@dataclass(frozen=True)
class Injected:
    """A fault that was injected.

    Attributes:
        fault: which.
        company: in whose file.
        file: its path below the location; None if it is withheld.
        period: the minute that the file covers, by its start.
        key: of the row that is wrong, for a fault of a row.
        check: the check that is to find it.
        found: whether that check found it, nothing else was found, and one alert was sent of it.
    """

    fault: str
    company: str
    file: str | None
    period: datetime
    key: tuple[str, ...]
    check: str
    found: bool


@dataclass(frozen=True)
class Seen:
    """Checks in the order of companies, and alerts."""

    checks: tuple[CheckResult, ...] = ()
    alerts: tuple[Alert, ...] = ()

    def shows(self, check: str, company: str) -> bool:
        """Whether that check alone has failed, for that company alone, and one alert was sent: that of it."""
        alerts = [(one.cause, one.company, one.sent) for one in self.alerts]
        return self._red == {(check, company)} and alerts == [(f"{CHECK_FAILED}:{check}", company, 1)]

    @property
    def well(self) -> bool:
        """Whether no check has failed and nothing was told."""
        return not self._red and not self.alerts

    @property
    def _red(self) -> set[tuple[str, str]]:
        return {(one.name, one.company) for one in self.checks if not one.passed}


class Watch:
    """Looks at checks and alerts from time to time."""

    def __init__(
        self, stream: Stream, dagster: Dagster, companies: Sequence[str], legacy: LegacySystem | None
    ) -> None:
        self._stream = stream
        self._dagster = dagster
        self._companies = {partition_key(company): company for company in companies}
        self._legacy = legacy
        self._begun = datetime.now(UTC)
        self._seen = Seen()
        self._next_look = 0.0

    def seen(self) -> Seen:
        """What was seen last; it is some seconds old, or nothing as long as Dagster is starting."""
        if time.monotonic() >= self._next_look:
            with suppress(URLError):
                self._seen = self.look()
            self._next_look = time.monotonic() + _LOOKS_EVERY_SECONDS
        return self._seen

    def look(self) -> Seen:
        """What there is to see now."""
        spec = self._stream.spec
        checked = self._dagster.checked(
            ["companies", f"{spec.name}_health"], check_names(spec), len(self._companies)
        )
        checks = [
            CheckResult(one.name, self._companies[one.partition], one.passed, one.severity)
            for one in checked
            if one.partition in self._companies
        ]
        checks.sort(key=lambda one: one.company)
        return Seen(tuple(checks), tuple(self._alerts()))

    def lacks(self, seen: Seen) -> bool:
        """Whether a check of a company has yet to run."""
        return len(seen.checks) < len(self._companies) * len(check_names(self._stream.spec))

    def written(self) -> frozenset[str]:
        """The files that the legacy system has written so far, by their paths."""
        files = self._legacy.written if self._legacy else ()
        return frozenset(one.path for one in files if one.path)

    def are_compared(self, files: frozenset[str]) -> bool:
        """Whether these files are compared."""
        return files <= {one.file for one in reconciliations.read(self._stream.store, self._stream.spec.name)}

    def faults(self, seen: Seen) -> tuple[Injected, ...]:
        """The fault that was injected, if one was, and whether it shows."""
        written = self._legacy.fault if self._legacy else None
        if written is None or written.fault is None:
            return ()
        found = seen.shows(FAULTY, written.company)
        where = (written.company, written.path, written.period.start, written.key)
        return (Injected(written.fault, *where, check=FAULTY, found=found),)

    def _alerts(self) -> Collection[Alert]:
        store, feed = self._stream.store, self._stream.spec.name
        sent = outbox.openings_sent(store, feed, CHANNEL)
        over = [one for one in read_incidents(store, feed, is_open=False) if one.opened_at >= self._begun]
        return [
            Alert(one.cause.kind, one.cause.company or None, _state(one), sent.get(one.id, 0))
            for one in [*over, *read_incidents(store, feed)]
        ]


def _state(incident: Incident) -> str:
    if incident.resolved_at is not None:
        return "resolved"
    return "acknowledged" if incident.acknowledged_at is not None else "open"
