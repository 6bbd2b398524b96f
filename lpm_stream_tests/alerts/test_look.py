"""What is found to be wrong, on a real stream."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from deltalake import write_deltalake

from lpm_stream.alerts import raised
from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.look import look
from lpm_stream.control import entries, leases, parking, progress, quarantine, tables
from lpm_stream.control.registry import register
from lpm_stream.errors import LpmStreamError, SourceError
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.example import SPEC, append, deliver, orders, publish

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


def found(stream: Stream) -> dict[tuple[str, str], Cause]:
    causes = look(stream).causes
    by_key = {(cause.kind, cause.company): cause for cause in causes}
    assert len(by_key) == len(causes)
    return by_key


def backdate(stream: Stream) -> None:
    """Lets the last workers have stopped, and the last companies have come, an hour ago."""
    with stream.store.write() as connection:
        connection.execute(tables.leases.update().values(expires_at=LONG_AGO))
        connection.execute(tables.companies.update().values(registered_at=LONG_AGO))
        connection.execute(tables.raised_causes.update().values(since=LONG_AGO))


def park(stream: Stream, company: str, reason: str = "down", kind: parking.Kind = "fault", since=LONG_AGO) -> None:
    state = replace(parking.park(company, 0, 1, since, reason, kind=kind), since=since)
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, company, state)


def test_all_is_well_with_a_stream_that_streams(stream):
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    deliver(stream)
    assert found(stream) == {}


def test_nobody_works(stream):
    publish(stream)
    deliver(stream)
    backdate(stream)
    causes = found(stream)
    assert causes.keys() == {("nobody_publishes", ""), ("nobody_delivers", "")}
    cause = causes["nobody_publishes", ""]
    assert cause.since == LONG_AGO
    assert cause.page == "/locations/lpm_stream/sensors/publish_orders"
    leases.acquire(stream.store, leases.lease_name("publish", SPEC.name), leases.worker_name("publish"))
    assert found(stream).keys() == {("nobody_delivers", "")}


def test_nobody_has_ever_worked(stream):
    assert found(stream) == {}
    backdate(stream)
    assert found(stream).keys() == {("nobody_publishes", ""), ("nobody_delivers", "")}


@pytest.mark.parametrize(
    ("reason", "kind", "wanted", "command"),
    [
        ("its database is locked", "fault", "parked", "lpm-stream status --feed orders"),
        (parking.SLOW, "fault", "parked", "lpm-stream status --feed orders"),
        ("lacks", "gap", "gap", "lpm-stream resync --company 'it'\"'\"'s' --feed orders"),
        ("begun anew", "held", "parked", "lpm-stream backfill 'it'\"'\"'s' --feed orders"),
        (
            "would have 9 rows in quarantine",
            "fault",
            "quarantine_full",
            "lpm-stream quarantine list --company 'it'\"'\"'s' --feed orders",
        ),
    ],
)
def test_a_parked_company(stream, reason, kind, wanted, command):
    register(stream.store, "it's")
    park(stream, "it's", reason, kind)
    [cause] = found(stream).values()
    assert (cause.kind, cause.company, cause.since, cause.command) == (wanted, "it's", LONG_AGO, command)
    assert reason in cause.what
    assert cause.page == "/assets/companies/orders?view=partitions&partition=it%27s"


def test_a_company_that_may_be_back_in_a_moment_is_not_told_of(stream):
    park(stream, "A", since=datetime.now(UTC))
    assert found(stream) == {}
    park(stream, "A", kind="gap", since=datetime.now(UTC))
    assert found(stream).keys() == {("gap", "A")}


def test_a_company_that_is_resumed_is_not_told_of_while_it_catches_up(stream):
    append(stream.table, orders(["1"], ["A"]))
    publish(stream)
    entries.set_state(stream.store, "A", "paused")
    deliver(stream)
    with stream.store.write() as connection:
        connection.execute(tables.parked.update().values(since=LONG_AGO))
    entries.set_state(stream.store, "A", "active")
    assert found(stream) == {}
    resumed = parking.read_parked(stream.store, SPEC.name)["A"]
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, "A", replace(resumed, since=LONG_AGO))
    cause = found(stream)["parked", "A"]
    assert (parking.RESUMED in cause.what, cause.command) == (True, "lpm-stream status --feed orders")
    deliver(stream)
    assert found(stream) == {}


def test_a_company_that_is_being_loaded_is_not_told_of(stream):
    park(stream, "A", kind="held")
    leases.acquire(stream.store, leases.lease_name("backfill", SPEC.name, "B"), leases.worker_name("backfill"))
    assert found(stream) == {}


def test_a_full_quarantine(stream):
    rows = [
        quarantine.Refused("A", 1, "publish", "bad", str(n)) for n in range(SPEC.quarantine_rows_per_minute + 1)
    ]
    with stream.store.write() as connection:
        quarantine.add(connection, SPEC.name, rows)
    assert found(stream).keys() == {("quarantine_full", "A")}
    park(stream, "A", "would have 1,002 rows in quarantine")
    assert found(stream).keys() == {("quarantine_full", "A")}


def test_what_was_published_and_not_delivered(stream):
    deliver(stream)
    append(stream.table, orders(["1"], ["A"]))
    publish(stream)
    assert found(stream) == {}
    patient = stream.spec.model_copy(update={"slo_seconds": 1e-9})
    impatient = replace(stream, spec=patient)
    assert found(impatient).keys() == {("undelivered", "A")}
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", "no delivery")
    assert found(impatient).keys() == {("check_failed:fresh", "A")}  # says the same: one incident is enough
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", None)
    park(stream, "A")
    assert found(impatient).keys() == {("parked", "A")}
    park(stream, "A", since=datetime.now(UTC))
    deliver(stream)
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, "A", None)
        progress.write_published(connection, SPEC.name, {"A": 99})  # of which nothing is in the hub
    assert found(impatient) == {}


def test_what_is_undelivered_is_not_over_because_it_is_told_otherwise(stream):
    deliver(stream)
    append(stream.table, orders(["1"], ["A"]))
    publish(stream)
    impatient = replace(stream, spec=stream.spec.model_copy(update={"slo_seconds": 1e-9}))
    [cause] = found(impatient).values()
    assert not look(impatient).has_missed(cause)
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", "no delivery")
    assert look(impatient).has_missed(cause)
    assert not look(impatient).has_missed(replace(cause, company="B"))
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", None)
    park(stream, "A")
    assert look(impatient).has_missed(cause)
    entries.set_state(stream.store, "A", "paused")
    assert not look(impatient).has_missed(cause)  # somebody wants it so
    entries.set_state(stream.store, "A", "active")
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, "A", None)
    backdate(stream)
    assert ("nobody_delivers", "") in found(impatient)
    assert look(impatient).has_missed(cause)


@pytest.mark.parametrize("slo_seconds", [1e14, math.inf])
def test_a_promise_for_ever_that_was_stored_once_keeps_nothing_else_from_being_seen(stream, slo_seconds):
    deliver(stream)
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    with stream.store.write() as connection:
        mine = tables.companies.update().where(tables.companies.c.company == "A")
        connection.execute(mine.values(slo_seconds=slo_seconds))
    impatient = replace(stream, spec=stream.spec.model_copy(update={"slo_seconds": 1e-9}))
    assert found(impatient).keys() == {("undelivered", "B")}


def test_publishing_has_stopped_until_it_goes_on(stream):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    good = orders(["2"], "A")
    write_deltalake(stream.table, good.drop("note").to_arrow(), mode="overwrite", schema_mode="overwrite")
    with pytest.raises(SourceError):
        publish(stream)
    assert found(stream) == {}  # it may be over in a moment
    backdate(stream)
    with pytest.raises(SourceError):
        publish(stream)
    cause = found(stream)["publishing_stopped", ""]
    assert "column note" in cause.what
    assert cause.since == LONG_AGO
    with stream.store.write() as connection:  # as a resync does
        cursor = progress.read_cursor(stream.store, SPEC.name)
        assert cursor is not None
        progress.write_cursor(connection, SPEC.name, replace(cursor, version=2))
    write_deltalake(stream.table, good.to_arrow(), mode="overwrite", schema_mode="overwrite")
    with stream.store.write() as connection:
        progress.write_cursor(connection, SPEC.name, replace(cursor, version=3))
    publish(stream)
    deliver(stream)
    assert found(stream) == {}


def test_a_table_that_is_missing_stops_publishing(stream):
    gone = replace(stream, settings=stream.settings.model_copy(update={"tables_url": "/nowhere"}))
    with pytest.raises(SourceError):
        publish(gone)
    backdate(stream)
    causes = found(stream)
    assert "no Delta table at /nowhere" in causes["publishing_stopped", ""].what
    assert ("nobody_publishes", "") not in causes


def test_a_hub_that_cannot_be_read(stream):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    stream.hub.close()
    for log in (stream.settings.home / "hub").glob("*.db"):
        log.write_bytes(b"garbage" * 1_000)
    with open_stream(stream.settings, SPEC) as again:
        seen = look(again)
    assert {cause.kind for cause in seen.causes} == {"hub_unreadable"}
    assert seen.unseen == {"undelivered"}


@pytest.mark.parametrize("hub_url", ["local:/dev/null", "nonsense:"])
def test_a_hub_that_cannot_be_opened(stream, hub_url):
    closed = stream.settings.model_copy(update={"hub_url": hub_url})
    with pytest.raises(LpmStreamError), open_stream(closed, SPEC):
        pass
    with open_stream(closed, SPEC, needs_hub=False) as opened:
        seen = look(opened)
    [cause] = seen.causes
    assert cause.kind == "hub_unreadable"
    assert "/dev/null cannot be opened" in cause.what or "kind of hub is not supported" in cause.what
    assert seen.unseen == {"undelivered"}


def test_a_check_raises_and_withdraws_its_cause(stream):
    for failure, count in (("rows doubled", 3), ("rows missing", 4)):
        texts = {"failure": failure, "found": f"{count} rows"}
        raised.check_came_out(stream.store, SPEC.name, "complete_against_source", "A", **texts)
    raised.check_came_out(stream.store, SPEC.name, "complete_against_source", "B", None)
    [cause] = found(stream).values()
    assert (cause.kind, cause.company) == ("check_failed:complete_against_source", "A")
    assert cause.what == "check complete_against_source fails: rows missing"
    assert cause.likely == "the check found: 4 rows"
    raised.check_came_out(stream.store, SPEC.name, "complete_against_source", "A", None)
    assert found(stream) == {}


def test_nothing_is_said_of_a_check_that_the_feed_no_longer_has(stream):
    assert stream.spec.legacy is None
    raised.check_came_out(stream.store, SPEC.name, "complete_against_legacy", "A", "3 periods are not complete")
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", "no delivery")
    assert found(stream).keys() == {("check_failed:fresh", "A")}


def test_nothing_is_wrong_with_a_company_that_was_removed(stream):
    rows = [
        quarantine.Refused("A", 1, "publish", "bad", str(n)) for n in range(SPEC.quarantine_rows_per_minute + 1)
    ]
    with stream.store.write() as connection:
        quarantine.add(connection, SPEC.name, rows)
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", "no delivery")
    park(stream, "A", kind="gap")
    assert {company for _, company in found(stream)} == {"A"}
    entries.set_state(stream.store, "A", "offboarding")
    assert found(stream) == {}


@pytest.mark.parametrize("by_change", [True, False])
def test_what_was_wrong_with_a_company_is_forgotten_when_it_is_removed(stream, by_change):
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", "no delivery")
    raised.check_came_out(stream.store, SPEC.name, "fresh", "B", "no delivery")
    park(stream, "A")
    before = entries.read(stream.store, "A").company
    if by_change:
        with stream.store.write() as connection:
            entries.change(connection, before, before.model_copy(update={"state": "offboarding"}))
    else:
        entries.set_state(stream.store, "A", "offboarding")
    assert parking.read_parked(stream.store, SPEC.name) == {}
    raised.check_came_out(stream.store, SPEC.name, "fresh", "A", "no delivery")  # by checks that had begun before
    with stream.store.write() as connection:
        entries.add(connection, before, entries.new_generation())
    assert found(stream).keys() == {("check_failed:fresh", "B")}
