"""The alerts sensor's tick, and what only Dagster knows of, on a real instance."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster_shared.error import SerializableErrorInfo

from lpm_stream.alerts import raised
from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.incidents import read_incidents
from lpm_stream.components.alerts import dagsters_causes
from lpm_stream.components.onboarding import onboard_job
from lpm_stream.components.partitions import partition_key
from lpm_stream.control import entries, quarantine
from lpm_stream.control.quarantine import Refused
from lpm_stream.control.registry import register
from lpm_stream.errors import LpmStreamError, SourceError
from lpm_stream.stream import Stream
from lpm_stream_tests.example import SPEC, append, orders, publish

COMPANY = "it's / C%"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """One that remembers ticks, as that in memory does not."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


@pytest.fixture
def sensor(instance: dg.DagsterInstance) -> Callable[..., None]:
    """Lets a sensor have ticked with these outcomes, the oldest first."""

    def tell(name: str, *outcomes: TickStatus, said: str = "lpm_stream.errors.HubError: the disk") -> None:
        location = RegisteredCodeLocationOrigin("lpm_stream")
        origin = RemoteInstigatorOrigin(
            repository_origin=RemoteRepositoryOrigin(location, "__repository__"), instigator_name=name
        )
        state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE)
        instance.add_instigator_state(state)
        for minute, status in enumerate(outcomes):
            root = SerializableErrorInfo(said, [], said.partition(":")[0].rpartition(".")[-1])
            error = SerializableErrorInfo("wrapped", [], "E", root)
            instance.create_tick(
                TickData(
                    state.instigator_origin_id,
                    name,
                    InstigatorType.SENSOR,
                    status,
                    (NOW + timedelta(minutes=minute)).timestamp(),
                    error=error if status == TickStatus.FAILURE else None,
                    selector_id=state.selector_id,
                )
            )

    return tell


@pytest.fixture
def causes(stream: Stream, instance: dg.DagsterInstance) -> Callable[[], list[Cause]]:
    return lambda: list(dagsters_causes(stream, instance, datetime.now(UTC)))


@pytest.fixture
def run(defs: dg.Definitions, instance: dg.DagsterInstance) -> Callable[[str], bool]:
    """Replays a company's quarantine, whether or not the company is registered."""

    def execute(company: str) -> bool:
        instance.add_dynamic_partitions("customer", [partition_key(company)])
        job = defs.resolve_job_def("replay_quarantine_orders")
        done = job.execute_in_process(
            instance=instance, partition_key=partition_key(company), raise_on_error=False
        )
        return done.success

    return execute


BAD, GOOD, BUSY = TickStatus.FAILURE, TickStatus.SKIPPED, TickStatus.STARTED


def test_a_sensor_that_keeps_failing(sensor, causes):
    sensor("deliver_orders", BAD, GOOD, BAD, BAD, BAD, BUSY)
    [cause] = causes()
    assert cause.kind == "sensor_failing:deliver_orders"
    assert cause.what == "sensor deliver_orders fails: the disk"
    assert cause.since == NOW + timedelta(minutes=2)
    assert cause.page == "/locations/lpm_stream/sensors/deliver_orders"


def test_of_an_unexpected_error_only_the_type_is_told(sensor, causes):
    sensor("deliver_orders", BAD, BAD, BAD, said="builtins.KeyError: 'a caller'")
    [cause] = causes()
    assert cause.what == "sensor deliver_orders fails: unexpected KeyError"


@pytest.mark.parametrize("name", ["watch_orders_files", "onboard_new_partitions", "alerts_orders"])
def test_every_sensor_that_the_feed_needs_is_told_of(sensor, causes, name):
    sensor(name, BAD, BAD, BAD)
    assert [cause.kind for cause in causes()] == [f"sensor_failing:{name}"]


@pytest.mark.parametrize("outcomes", [(BAD, BAD, BAD, GOOD), (BAD, BAD), (GOOD, BAD, BAD, BUSY), ()])
def test_a_sensor_that_may_be_well(sensor, causes, outcomes):
    sensor("deliver_orders", *outcomes)
    sensor("deliver_others", BAD, BAD, BAD)
    sensor("deliver_special_orders", BAD, BAD, BAD)
    assert causes() == []


def test_publishing_that_has_stopped_is_one_cause(stream, sensor, causes):
    sensor("publish_orders", BAD, BAD, BAD)
    assert len(causes()) == 1
    raised.publishing_stopped(stream.store, SPEC.name, SourceError("gone"))
    assert causes() == []


def set_aside(stream: Stream) -> None:
    """Puts a row of the company into quarantine."""
    with stream.store.write() as connection:
        quarantine.add(connection, SPEC.name, [Refused(COMPANY, 1, "deliver", "too long", '{"id": "1"}')])


def test_a_failed_run_until_another_made_up_for_it(stream, run, causes):
    set_aside(stream)
    assert not run(COMPANY)  # nobody has registered it
    [cause] = causes()
    assert (cause.kind, cause.company) == ("run_failed:replay_quarantine_orders:it's / C%25", "")
    register(stream.store, COMPANY)
    [cause] = causes()
    assert (cause.kind, cause.company) == ("run_failed:replay_quarantine_orders", COMPANY)
    assert cause.page.startswith("/runs/")
    assert run("A")
    assert len(causes()) == 1
    assert run(COMPANY)
    assert causes() == []


def test_a_failed_replay_until_nothing_is_left_to_replay(stream, run, causes):
    append(stream.table, orders(["1", "2"], "A", note="n" * 2_000))
    publish(stream)
    assert not run("A")
    [cause] = causes()
    assert (cause.kind, cause.company) == ("run_failed:replay_quarantine_orders", "A")
    first, second = quarantine.entries(stream.store, SPEC.name, "A")
    quarantine.discard(stream.store, SPEC.name, [first])
    assert len(causes()) == 1
    quarantine.discard(stream.store, SPEC.name, [second])
    assert causes() == []


def test_a_failed_run_of_a_company_that_was_removed(stream, run, causes):
    set_aside(stream)
    assert not run(COMPANY)
    register(stream.store, COMPANY)
    assert len(causes()) == 1
    entries.set_state(stream.store, COMPANY, "offboarding")
    assert causes() == []


def test_an_onboarding_that_has_failed_until_the_company_is_onboarded(stream, instance, causes):
    append(stream.table, orders(["1"], COMPANY))

    def onboard(company: str, database: str = "") -> bool:
        config = {"ops": {"onboard": {"config": {"company": company, "database": database}}}}
        done = onboard_job([SPEC]).execute_in_process(config, instance, raise_on_error=False)
        return done.success

    nowhere = "sqlite:////proc/no.db"
    assert not onboard(COMPANY, nowhere)
    assert not onboard("D", nowhere)
    assert not onboard("A")  # it is a customer already
    kinds = {"run_failed:onboard_company:it's / C%25", "run_failed:onboard_company:D"}
    assert {cause.kind for cause in causes()} == kinds
    assert onboard(COMPANY)
    assert [cause.kind for cause in causes()] == ["run_failed:onboard_company:D"]


def test_many_failed_runs_are_all_seen(run, causes):
    names = [f"nobody {number}" for number in range(8)]
    for name in names:
        assert not run(name)
    assert len(causes()) == 8


def test_the_tick_opens_and_resolves(stream, run, tick, monkeypatch):
    monkeypatch.setenv("LPM_STREAM_ALERT_CALM_SECONDS", "0")
    register(stream.store, COMPANY)
    first = tick("alerts_orders")
    assert first.skip_message == "just begun: it looks with its next tick"
    raised.check_came_out(stream.store, SPEC.name, "complete_against_source", "A", "3 keys are missing")
    second = tick("alerts_orders", first.cursor)
    assert second.skip_message == "1 incidents opened, 0 resolved, 0 alerts sent"
    raised.check_came_out(stream.store, SPEC.name, "complete_against_source", "A", None)
    third = tick("alerts_orders", second.cursor)
    assert third.skip_message == "0 incidents opened, 1 resolved, 0 alerts sent"
    assert read_incidents(stream.store, SPEC.name) == []


def test_the_tick_tells_of_a_hub_that_cannot_be_opened(stream, tick, monkeypatch):
    first = tick("alerts_orders")
    monkeypatch.setenv("LPM_STREAM_HUB_URL", "local:/dev/null")
    assert tick("alerts_orders", first.cursor).skip_message == "1 incidents opened, 0 resolved, 0 alerts sent"
    assert [one.cause.kind for one in read_incidents(stream.store, SPEC.name)] == ["hub_unreadable"]


def test_a_wrong_setting_fails_the_tick(stream, tick, monkeypatch):
    first = tick("alerts_orders")
    monkeypatch.setenv("LPM_STREAM_ALERT_URLS", "mailto://me:hush@host")
    with pytest.raises(LpmStreamError, match="is no reference"):
        tick("alerts_orders", first.cursor)


def test_a_channel_that_is_down_does_not_fail_the_tick(stream, tick, monkeypatch):
    monkeypatch.setenv("LPM_STREAM_ALERT_URLS", "env:NOT_SET")
    raised.check_came_out(stream.store, SPEC.name, "complete_against_source", "A", "3 keys are missing")
    data: Any = tick("alerts_orders", tick("alerts_orders").cursor)
    assert "1 incidents opened, 0 resolved, 0 alerts sent; " in data.skip_message
    assert "NOT_SET is not set" in data.skip_message
