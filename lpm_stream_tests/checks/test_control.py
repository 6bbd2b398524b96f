"""Parked, quarantined, late: each for its company, and for nobody else."""

import dataclasses
from datetime import UTC, datetime, timedelta

from lpm_stream.control import ledger, parking
from lpm_stream.control.latency import Latencies
from lpm_stream.control.parking import Kind
from lpm_stream.stream import Stream
from lpm_stream_tests.checks.example import SPEC, checked, passed, rows
from lpm_stream_tests.example import append, deliver, publish

LONG = "a note that is too long " * 100


def park(stream: Stream, kind: Kind, since: timedelta) -> None:
    now = datetime.now(UTC)
    state = parking.park("A", 0, 1, now, "its disk is full", kind=kind)
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, "A", dataclasses.replace(state, since=now - since))


def receive(stream: Stream, seconds: float, at: datetime) -> None:
    latencies = Latencies()
    latencies.add(seconds, 10)
    with stream.store.write() as connection:
        ledger.record(connection, SPEC.name, {("A", at.replace(second=0, microsecond=0)): latencies})


def test_a_parked_company(stream):
    assert passed(stream, "not_parked") == {"A": True, "B": True}
    park(stream, "fault", timedelta(minutes=5))
    results = checked(stream, "not_parked")
    assert {company: one.bad for company, one in results.items()} == {"A": True, "B": False}
    assert "its disk is full" in results["A"].description
    assert results["A"].values["attempts"] == 1


def test_a_moment_is_granted_and_a_backfill_has_its_time_but_a_gap_counts_at_once(stream):
    park(stream, "fault", timedelta(seconds=1))
    assert passed(stream, "not_parked")["A"]
    park(stream, "held", timedelta(hours=1))
    assert passed(stream, "not_parked")["A"]
    park(stream, "gap", timedelta(seconds=1))
    assert not passed(stream, "not_parked")["A"]


def test_rows_in_quarantine_are_a_warning_with_keys_and_no_values(stream):
    assert passed(stream, "nothing_quarantined") == {"A": True, "B": True}
    append(stream.table, rows("r1", "r2", note=LONG))
    publish(stream)
    deliver(stream)
    results = checked(stream, "nothing_quarantined")
    assert {company: one.passed for company, one in results.items()} == {"A": False, "B": True}
    one = results["A"]
    assert (one.severity, one.bad, one.values) == ("WARN", False, {"rows": 2})
    assert {example["key"] for example in one.examples} == {"r1", "r2"}
    assert LONG[:9] not in str(one)


def test_the_feed_says_how_many_rows_in_quarantine_are_too_many(stream):
    append(stream.table, rows("r1", note=LONG))
    publish(stream)
    checks = SPEC.checks.model_copy(update={"quarantined_rows": 1, "warnings": frozenset()})
    tolerant = dataclasses.replace(stream, spec=SPEC.model_copy(update={"checks": checks}))
    one = checked(tolerant, "nothing_quarantined")["A"]
    assert (one.passed, one.severity) == (True, "ERROR")


def test_latency_against_promise_and_stretch(stream):
    assert passed(stream, "latency_slo") == {"A": True, "B": True}
    assert "no traffic" in checked(stream, "latency_slo")["A"].description
    receive(stream, 20, datetime.now(UTC))
    one = checked(stream, "latency_slo")["A"]
    assert (one.passed, one.values["within_stretch"], one.values["changes"]) == (True, False, 10)
    receive(stream, 61, datetime.now(UTC))
    results = checked(stream, "latency_slo")
    assert {company: one.bad for company, one in results.items()} == {"A": True, "B": False}
    assert {"p50_seconds", "p95_seconds", "p99_seconds", "max_seconds"} <= results["A"].values.keys()
    assert results["A"].values["max_seconds"] == 61


def test_latency_of_long_ago_is_forgotten(stream):
    receive(stream, 61, datetime.now(UTC) - timedelta(hours=1))
    assert passed(stream, "latency_slo")["A"]
