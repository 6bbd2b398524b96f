"""The legacy system of a demo: its files pass, but for the fault asked for, and are right again afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from lpm_stream.alerts.incidents import read_incidents
from lpm_stream.alerts.run import run as look_for_alerts
from lpm_stream.checks.run import run_checks
from lpm_stream.checks.tell import Teller
from lpm_stream.demo.legacy import LegacySystem, declare, legacy_system
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.load import overridden, override_path
from lpm_stream.legacy.location import open_location
from lpm_stream.legacy.simulate import Fault
from lpm_stream.stream import Stream
from lpm_stream_tests.example import orders
from lpm_stream_tests.legacy.example import SPEC, commit, deliver

COMPANIES = ["A", "B"]
MINUTE = timedelta(minutes=1)
BEGUN = datetime.now(UTC).replace(second=50, microsecond=0) - 6 * MINUTE  # the demo's; its grace is over


@contextmanager
def system(stream: Stream, fault: Fault | None = None, now: datetime = BEGUN) -> Iterator[LegacySystem]:
    with open_location(stream.settings) as location:
        one = LegacySystem(stream, location, COMPANIES, fault, now)
        one.begin(now)
        one.traffic_begins(now)
        yield one


def traffic(stream: Stream) -> None:
    """Four orders of each company in each of the first two whole minutes of the demo."""
    for minute in (1, 2):
        at = BEGUN.replace(second=20) + minute * MINUTE
        for company in COMPANIES:
            ids = [f"{company}{minute}{number}" for number in range(4)]
            commit(stream, orders(ids, company, ordered_at=at), at + timedelta(seconds=1))
    deliver(stream)


def red(stream: Stream) -> list[tuple[str, str]]:
    """The checks on files that fail, which are told of."""
    teller = Teller(stream)
    failed: list[tuple[str, str]] = []
    for result in run_checks(stream, names=["complete_against_legacy"]):
        teller.tell(result)
        if not result.passed:
            failed.append((result.name, result.company))
    look_for_alerts(stream)
    return failed


def open_alerts(stream: Stream) -> list[tuple[str, str]]:
    kinds = {"check_failed:complete_against_legacy"}  # nobody publishes or delivers in these tests
    found = [(one.cause.kind, one.cause.company) for one in read_incidents(stream.store, stream.spec.name)]
    return [one for one in found if one[0] in kinds]


def test_files_come_every_minute_and_pass(stream):
    traffic(stream)
    with system(stream) as legacy:
        assert [one.rows for one in legacy.written] == [0, 0]  # of the minute before
        legacy.step(BEGUN + 3 * MINUTE)
        assert [(one.company, one.rows) for one in legacy.written[-4:]] == [("A", 4), ("B", 4)] * 2
        assert legacy.fault is None
    assert red(stream) == []


@pytest.mark.parametrize("fault", get_args(Fault))
def test_a_fault_turns_one_check_of_one_company_red_until_the_next_demo(stream, fault):
    traffic(stream)
    with system(stream, fault) as legacy:
        legacy.step(BEGUN + 3 * MINUTE)
        assert legacy.fault is not None
        assert (legacy.fault.company, legacy.fault.fault) == ("A", fault)
        assert sum(one.fault is not None for one in legacy.written) == 1
    assert red(stream) == [("complete_against_legacy", "A")]
    assert open_alerts(stream) == [("check_failed:complete_against_legacy", "A")]
    with system(stream, now=BEGUN + 4 * MINUTE):
        assert red(stream) == []
        assert open_alerts(stream) == []


def test_what_a_demo_that_was_stopped_has_not_written_comes_with_the_next(stream):
    traffic(stream)
    with system(stream) as legacy:
        legacy.step(BEGUN + 2 * MINUTE)
        written = len(legacy.written)
    with system(stream, now=BEGUN + 4 * MINUTE) as legacy:
        assert written == 6
        assert [(one.company, one.rows) for one in legacy.written] == [("A", 4), ("B", 4)]
    assert red(stream) == []


def test_somebody_s_own_override_is_left_alone(stream):
    path = override_path(SPEC, stream.settings.home)
    declare(stream.settings, SPEC)
    path.write_text("checks: {grace_seconds: 1}\n")
    with pytest.raises(LpmStreamError, match="is not the demo's: choose another directory"):
        declare(stream.settings, SPEC)
    assert overridden(SPEC, stream.settings.home).checks.grace_seconds == 1


def test_a_feed_without_legacy_files_has_no_faults_to_find(stream):
    bare = Stream(SPEC.model_copy(update={"legacy": None}), stream.settings, stream.store, stream.hub)
    declare(bare.settings, bare.spec)
    with legacy_system(bare, COMPANIES, None) as none:
        assert none is None
    with pytest.raises(LpmStreamError, match="has no legacy files"), legacy_system(bare, COMPANIES, "late-file"):
        pass
