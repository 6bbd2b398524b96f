"""When an incident is opened, told of, and over."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lpm_stream.alerts import incidents
from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.incidents import Pace, Silence
from lpm_stream.alerts.look import Look
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import notifications
from lpm_stream.errors import LpmStreamError

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
DOWN = Cause("parked", "it's 🚑", "down", T0, "them", "who knows", "lpm-stream status", "/assets")
PACE = Pace(reminder=4 * HOUR, calm=2 * MINUTE, update=10 * MINUTE)


class Clock:
    """Looks at chosen instants; `told` are the events since the last look."""

    def __init__(self, store: ControlStore) -> None:
        self.store = store
        self.seen = 0

    def __call__(self, at: timedelta, *causes: Cause, **missed: frozenset[Any]) -> list[str]:
        look = Look(causes, **missed)
        incidents.update(self.store, "f", look, ["env:X"], pace=PACE, dagster_url="http://ui/", now=T0 + at)
        with self.store.read() as connection:
            query = sa.select(notifications.c.event).order_by(notifications.c.created_at, notifications.c.id)
            events = list(connection.execute(query).scalars())
        new = events[self.seen :]
        self.seen = len(events)
        return new


@pytest.fixture
def at(store: ControlStore) -> Clock:
    return Clock(store)


def test_one_incident_from_opened_to_resolved(store, at):
    assert at(0 * MINUTE, DOWN) == ["opened"]
    assert at(1 * MINUTE, DOWN) == []
    assert at(4 * HOUR, DOWN) == ["reminder"]
    assert at(5 * HOUR, DOWN) == []
    assert at(6 * HOUR) == []
    assert at(6 * HOUR + MINUTE) == []
    assert len(incidents.read_incidents(store, "f")) == 1
    assert at(6 * HOUR + 2 * MINUTE) == ["resolved"]
    assert at(7 * HOUR) == []
    assert incidents.read_incidents(store, "f") == []
    [over] = incidents.read_incidents(store, "f", is_open=False)
    assert over.cause == DOWN
    assert over.resolved_at == T0 + 6 * HOUR + 2 * MINUTE
    assert at(8 * HOUR, DOWN) == ["opened"]


def test_causes_and_companies_have_incidents_of_their_own(store, at):
    causes = [DOWN, replace(DOWN, kind="gap"), replace(DOWN, company="B"), replace(DOWN, company="")]
    assert at(0 * MINUTE, *causes) == ["opened"] * 4
    assert at(1 * MINUTE, *causes) == []
    assert len(incidents.read_incidents(store, "f")) == 4
    assert incidents.read_incidents(store, "other") == []


def test_flapping_is_told_once(at):
    assert at(0 * MINUTE, DOWN) == ["opened"]
    for minute in range(1, 60):
        assert at(minute * MINUTE, *([DOWN] if minute % 2 else [])) == []


def test_a_new_text_is_told_but_not_too_often(store, at):
    at(0 * MINUTE, DOWN)
    worse = replace(DOWN, what="on fire", since=T0 + HOUR)
    assert at(1 * MINUTE, worse) == []
    [incident] = incidents.read_incidents(store, "f")
    assert (incident.cause.what, incident.cause.since) == ("on fire", T0)
    assert at(10 * MINUTE, worse) == ["updated"]
    assert at(11 * MINUTE, worse) == []


def test_nobody_is_reminded_of_what_somebody_has_taken_on(store, at):
    at(0 * MINUTE, DOWN)
    [incident] = incidents.read_incidents(store, "f")
    incidents.acknowledge(store, "f", incident.id[:6])
    assert at(9 * HOUR, replace(DOWN, what="on fire")) == []
    assert at(10 * HOUR) == []
    assert at(11 * HOUR) == ["resolved"]
    with pytest.raises(LpmStreamError, match="no open incident"):
        incidents.acknowledge(store, "f", incident.id[:6])


@pytest.mark.parametrize(
    ("kind", "company", "is_silent"),
    [
        ("parked", None, True),
        (None, "it's 🚑", True),
        (None, None, True),
        ("parked", "B", False),
        ("gap", None, False),
    ],
)
def test_silence_is_kept_until_it_ends(store, at, kind, company, is_silent):
    end = datetime.now(UTC) + HOUR
    incidents.silence(store, "f", Silence(kind, company, end))
    incidents.silence(store, "other", Silence(None, None, end))
    assert at(0 * MINUTE, DOWN) == ([] if is_silent else ["opened"])
    assert len(incidents.read_incidents(store, "f")) == 1
    if is_silent:
        assert at(end - T0, DOWN) == ["opened"]
        assert incidents.read_silences(store, "f") == []
    else:
        assert incidents.end_silences(store, "f", kind, company) == 1


def test_what_came_and_went_in_silence_is_never_told(store, at):
    incidents.silence(store, "f", Silence(None, None, T0 + HOUR))
    assert at(0 * MINUTE, DOWN) == []
    assert at(50 * MINUTE) == []
    assert at(2 * HOUR) == []
    assert incidents.read_incidents(store, "f") == []


def test_a_silence_can_be_named_by_sort(store, at):
    incidents.silence(store, "f", Silence("check_failed", None, T0 + HOUR))
    assert at(0 * MINUTE, replace(DOWN, kind="check_failed:fresh")) == []


def test_what_cannot_be_seen_is_not_over(store, at):
    failed = replace(DOWN, kind="run_failed:job")
    at(0 * MINUTE, failed)
    assert at(9 * MINUTE, unseen=frozenset({"run_failed"})) == []
    assert at(19 * MINUTE, unseen=frozenset({"run_failed"})) == []
    assert at(29 * MINUTE, unseen_of=frozenset({("run_failed", DOWN.company)})) == []
    assert at(39 * MINUTE, unseen_of=frozenset({("run_failed", DOWN.company)})) == []
    assert len(incidents.read_incidents(store, "f")) == 1
    at(49 * MINUTE, unseen_of=frozenset({("run_failed", "B")}))
    assert at(59 * MINUTE, unseen_of=frozenset({("run_failed", "B")})) == ["resolved"]


def test_long_texts_are_cut(store, at):
    assert at(0 * MINUTE, replace(DOWN, what="w" * 9_000)) == ["opened"]
    [incident] = incidents.read_incidents(store, "f")
    assert incident.cause.what == "w" * 2_000


def test_a_message_says_all_there_is_to_say(store, at):
    at(0 * MINUTE, DOWN)
    with store.read() as connection:
        [row] = connection.execute(sa.select(notifications)).all()
    assert row.title == "[lpm_stream f] down"
    assert row.body.splitlines() == [
        "What: down",
        "Since: 2026-01-02T03:04:05Z",
        "Affected: them",
        "Likely cause: who knows",
        "Next: lpm-stream status",
        "See: http://ui/assets",
    ]
