"""Pausing, resuming and removing companies, with the real drains."""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from lpm_stream.checks.run import run_checks
from lpm_stream.control import entries, parking, registry
from lpm_stream.delivery import worker
from lpm_stream.status import read_status
from lpm_stream.stream import Stream
from lpm_stream_tests.delivery.test_drain import commit, delivered, delivering, parked, try_again_now, wait_until
from lpm_stream_tests.example import assert_delivered, deliver, stored


def state_of(stream: Stream, company: str) -> str:
    return {one.company: one.state for one in read_status(stream).companies}[company]


def test_a_paused_company_goes_on_from_where_it_was(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    assert entries.set_state(stream.store, "A", "paused")
    commit(stream, A="3", B="4")
    deliver(stream)
    assert stored(stream, "A").keys() == {"1"}
    assert_delivered(stream, ["B"])
    assert state_of(stream, "A") == "paused"
    assert "companies resume A" in parked(stream)["A"].reason
    commit(stream, A="5", B="6")
    try_again_now(stream)
    assert stored(stream, "A").keys() == {"1"}
    results = run_checks(stream, ["A"], ["not_parked", "fresh"])
    assert [result.passed for result in results] == [True, True]
    entries.set_state(stream.store, "A", "active")
    try_again_now(stream)
    assert_delivered(stream, ["A", "B"])
    assert parked(stream) == {}


def test_what_waited_is_not_held_against_the_promise(stream):
    strict = replace(stream, spec=stream.spec.model_copy(update={"slo_seconds": 0.5}))
    entries.set_state(stream.store, "A", "paused")
    commit(stream, A="1", B="2")
    deliver(stream)
    time.sleep(0.6)  # longer than is promised
    entries.set_state(stream.store, "A", "active")
    try_again_now(stream)
    assert_delivered(stream, ["A"])
    [result] = run_checks(strict, ["A"], ["latency_slo"])
    assert result.passed
    assert "1 more waited while it was parked or paused" in result.description
    assert (result.values["changes"], result.values["changes_that_waited"]) == (1, 1)


def test_a_running_deliverer_notices(stream):
    commit(stream, A="1", B="2")
    with delivering(stream):
        wait_until(lambda: delivered(stream, "A") == 1)
        entries.set_state(stream.store, "A", "paused")
        commit(stream, A="3")  # may be quicker than the news
        wait_until(lambda: "A" in parked(stream) or delivered(stream, "A") == 3)
        time.sleep(worker._REGISTRY_SECONDS)
        commit(stream, A="5")
        wait_until(lambda: "A" in parked(stream))
        assert delivered(stream, "A") < 4
        entries.set_state(stream.store, "A", "active")
        parking.try_now(stream.store, "orders", "A")
        wait_until(lambda: delivered(stream, "A") == 4)
        entries.set_state(stream.store, "A", "offboarding")
        commit(stream, A="7", B="8")
        wait_until(lambda: delivered(stream, "B") == 6)
    assert stored_of_removed(stream, "A") == {"1", "3", "5"}
    assert_delivered(stream, ["B"])


def stored_of_removed(stream: Stream, company: str) -> set[str]:
    with closing(sqlite3.connect(stream.settings.home / "companies" / f"{company}.db")) as connection:
        return {key for (key,) in connection.execute("SELECT id FROM orders")}


def test_what_waits_for_a_company_that_was_removed_is_not_delivered(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    commit(stream, A="3", B="4")
    entries.set_state(stream.store, "A", "offboarding")
    deliver(stream)
    assert stored_of_removed(stream, "A") == {"1"}
    assert_delivered(stream, ["B"])


def test_a_parked_company_that_is_removed_is_forgotten(stream):
    entries.set_state(stream.store, "A", "paused")
    commit(stream, A="1", B="2")
    deliver(stream)
    assert parked(stream).keys() == {"A"}
    entries.set_state(stream.store, "A", "offboarding")
    try_again_now(stream)
    assert parked(stream) == {}


@pytest.mark.parametrize("changed", [True, False])
def test_the_registry_is_read_when_something_in_it_has_changed(stream, monkeypatch, changed):
    commit(stream, A="1")
    monkeypatch.setattr(worker, "_REGISTRY_SECONDS", -1.0)
    reads: list[object] = []
    whole = registry.served

    def counted(*given: Any) -> dict[str, registry.Served]:
        reads.append(given)
        return whole(*given)

    monkeypatch.setattr(registry, "served", counted)
    served = worker.Worker(stream.spec, stream.hub, stream.store, stream.settings, 1)
    for _ in range(3):
        assert served.is_registered("A")
        if changed:
            entries.set_state(stream.store, "B", "paused" if len(reads) % 2 else "active")
    assert len(reads) == (3 if changed else 1)


_View = tuple[registry.Revision, dict[str, registry.Served]]


def test_a_thread_that_saw_an_older_registry_does_not_keep_others_from_the_newer(stream, monkeypatch):
    older: _View = (None, 0), {}
    newer: _View = (None, 1), {"A": registry.Served("A", "sqlite:///A.db")}
    view = newer
    monkeypatch.setattr(worker, "_REGISTRY_SECONDS", -1.0)
    monkeypatch.setattr(registry, "revision", lambda *_: view[0])
    monkeypatch.setattr(registry, "served", lambda *_: view[1])

    class Interrupted(worker.Worker):
        """Where it first notes what it has read, another thread notes what that has read before."""

        armed = False

        def __setattr__(self, name: str, value: object) -> None:
            nonlocal view
            super().__setattr__(name, value)
            if self.armed and name != "armed":
                self.armed = False
                view = older
                self._ask()
                view = newer

    served = Interrupted(stream.spec, stream.hub, stream.store, stream.settings, 1)
    served.armed = True
    served.is_registered("A")
    assert served.is_registered("A")
