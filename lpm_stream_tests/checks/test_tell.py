"""Which failed checks are told of: all, and each trouble once."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.look import look
from lpm_stream.alerts.raised import raise_cause, read_raised, withdraw_cause
from lpm_stream.checks.result import Result
from lpm_stream.checks.tell import Teller
from lpm_stream.control import entries, parking
from lpm_stream.feed.checks import CheckName, Severity
from lpm_stream.stream import Stream
from lpm_stream_tests.checks.example import SPEC, checked, rows
from lpm_stream_tests.example import append, deliver, publish
from lpm_stream_tests.legacy.example import commit_at


def tell(stream: Stream, name: CheckName, *, passed: bool = False, severity: Severity = "ERROR") -> list[str]:
    """The causes that stand after a check of company A came out."""
    Teller(stream).tell(Result(name, "A", passed, severity, "it is so"))
    return [f"{one.kind} {one.company}: {one.what}" for one in read_raised(stream.store, SPEC.name)]


def park(stream: Stream, company: str) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    state = dataclasses.replace(parking.park(company, 0, 1, long_ago, "it is down"), since=long_ago)
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, company, state)


@pytest.mark.parametrize("name", ["fresh", "not_parked", "nothing_quarantined", "complete_against_source"])
def test_every_failed_check_is_told_of_until_it_passes(stream, name):
    assert tell(stream, name) == [f"check_failed:{name} A: check {name} fails: it is so"]
    assert tell(stream, name, passed=True) == []


def test_a_warning_says_that_it_is_one(stream):
    said = tell(stream, "sooner_than_legacy", severity="WARN")
    assert said == ["check_failed:sooner_than_legacy A: check sooner_than_legacy fails: (a warning) it is so"]


@pytest.mark.parametrize("name", ["not_parked", "fresh", "latency_slo", "complete_against_legacy"])
def test_what_follows_from_parking_is_not_told_besides(stream, name):
    park(stream, "A")
    assert tell(stream, name) == []
    assert "parked" in {cause.kind for cause in look(stream).causes if cause.company == "A"}


@pytest.mark.parametrize("name", ["latency_slo", "complete_against_legacy", "sooner_than_legacy"])
def test_what_follows_from_a_pause_is_not_told(stream, name):
    entries.set_state(stream.store, "A", "paused")
    assert tell(stream, name) == []
    assert len(tell(stream, "complete_against_source")) == 1


def test_a_neighbour_s_trouble_explains_nothing(stream):
    park(stream, "B")
    assert len(tell(stream, "fresh")) == 1


def test_what_parking_does_not_explain_is_told(stream):
    park(stream, "A")
    assert len(tell(stream, "complete_against_source")) == 1
    assert len(tell(stream, "nothing_quarantined")) == 2


def test_trouble_of_the_feed_explains_what_its_companies_lack(stream):
    since = datetime.now(UTC) - timedelta(hours=1)
    raise_cause(stream.store, SPEC.name, Cause("publishing_stopped", "", "no", since, "all", "so", "do", "/"))
    assert [one.split()[0] for one in tell(stream, "fresh")] == ["publishing_stopped"]


def test_what_was_told_stays_until_the_check_passes(stream):
    tell(stream, "fresh")
    park(stream, "A")
    assert len(tell(stream, "fresh")) == 1
    withdraw_cause(stream.store, SPEC.name, "check_failed:fresh", "A")
    assert tell(stream, "fresh") == []


def test_numbers_that_change_are_no_news(stream):
    for count in range(3):
        Teller(stream).tell(
            Result("fresh", "A", False, "ERROR", f"no delivery: for {count} s", failure="no delivery")
        )
        [cause] = read_raised(stream.store, SPEC.name)
        assert cause.what == "check fresh fails: no delivery"
        assert cause.likely == f"the check found: no delivery: for {count} s"


def test_the_checks_say_what_fails_without_numbers_that_change(stream):
    append(stream.table, rows("1"))
    commit_at(stream.table, datetime.now(UTC) - timedelta(hours=1))
    assert checked(stream, "fresh")["A"].failure == "nothing is published"
    publish(stream)
    assert checked(stream, "fresh")["A"].failure == "no delivery"
    deliver(stream)
    assert checked(stream, "latency_slo")["A"].failure == "p99 is more than the 60 s that are promised"
    park(stream, "A")
    assert checked(stream, "not_parked")["A"].failure == "it is parked (fault)"
