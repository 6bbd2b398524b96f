"""Checks as Dagster runs them, in this process on a real home directory."""

import itertools
import os
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from lpm_stream.alerts.raised import read_raised
from lpm_stream.checks.result import check_names
from lpm_stream.components import Feed
from lpm_stream.components.checks import cron
from lpm_stream.components.keys import company_key, health_key, legacy_key
from lpm_stream.components.partitions import partition_key
from lpm_stream.control.registry import register
from lpm_stream.errors import LpmStreamError
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests import example
from lpm_stream_tests.checks.example import DAY, SPEC, YESTERDAY, rows, with_legacy
from lpm_stream_tests.legacy.example import put

COMPANY = "C%"
KEY = partition_key(COMPANY)
NAMES = set(check_names(SPEC))


@pytest.fixture
def defs() -> dg.Definitions:
    return dg.build_defs_for_component(Feed(SPEC))


@pytest.fixture
def stream(settings: Any) -> Iterator[Stream]:
    """Two companies, each with two orders delivered, and files that agree."""
    example.create_table(settings.table_location(SPEC.source_table))
    with open_stream(settings, SPEC) as opened:
        for company in ("A", COMPANY):
            register(opened.store, company)
            example.append(opened.table, rows(f"{company}1", f"{company}2", company=company))
        example.publish(opened)
        example.deliver(opened)
        for company in ("A", COMPANY):
            put(opened, company, rows(f"{company}1", f"{company}2", company=company), DAY)
            put(opened, company, rows(), YESTERDAY)
        yield opened


def check(defs: dg.Definitions, instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    """Runs the job."""
    ops = {"check_orders_companies": {"config": config}}
    return defs.resolve_job_def("check_orders").execute_in_process(instance=instance, run_config={"ops": ops})


def evaluations(done: dg.ExecuteInProcessResult) -> dict[tuple[str | None, str], dg.AssetCheckEvaluation]:
    """(partition, check) to the evaluation."""
    return {(one.partition, one.check_name): one for one in done.get_asset_check_evaluations()}


def stored(instance: dg.DagsterInstance, name: str) -> list[tuple[str | None, str]]:
    """Partition and status of a check, the newest first."""
    key = dg.AssetCheckKey(health_key(SPEC), name)
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    return [(one.partition, one.status.value) for one in records]


def test_one_run_tells_of_every_company_again_and_again(stream, defs, instance):
    for _ in range(2):
        found = evaluations(check(defs, instance))
        assert found.keys() == {(company, name) for company in ("A", KEY) for name in NAMES}
        assert [key for key, one in found.items() if not one.passed] == []
    assert stored(instance, "complete_against_source") == [(KEY, "SUCCEEDED"), ("A", "SUCCEEDED")] * 2
    assert set(instance.get_dynamic_partitions("customer")) == {"A", KEY}


def test_what_is_wrong_is_told_with_keys(stream, defs, instance):
    path = put(stream, COMPANY, rows("C%1", "C%2", "C%3", company=COMPANY), DAY, issue=1)
    found = evaluations(check(defs, instance))
    assert [key for key, one in found.items() if not one.passed] == [(KEY, "complete_against_legacy")]
    one = found[KEY, "complete_against_legacy"]
    assert one.severity == dg.AssetCheckSeverity.ERROR
    assert one.metadata["missing"].value == 1
    assert one.metadata["next"].value == f"lpm-stream verify --company {shlex.quote(COMPANY)} --feed orders"
    examples: Any = one.metadata["examples"]
    [record] = examples.records
    assert record.data == {
        "file": path,
        "period": DAY.start.isoformat(),
        "kind": "missing",
        "key": "C%3",
        "columns": "",
    }
    assert stored(instance, "complete_against_legacy") == [(KEY, "FAILED"), ("A", "SUCCEEDED")]
    raised = [(cause.kind, cause.company) for cause in read_raised(stream.store, SPEC.name)]
    assert raised == [("check_failed:complete_against_legacy", COMPANY)]


def test_the_files_that_were_compared_are_reported(stream, defs, instance):
    config = {"companies": [COMPANY], "checks": ["sooner_than_legacy"]}
    done = check(defs, instance, **config)
    assert evaluations(done).keys() == {(KEY, "sooner_than_legacy")}
    [event] = done.get_asset_materialization_events()
    assert (event.asset_key, event.partition) == (legacy_key(SPEC), KEY)
    assert event.materialization.metadata["period_start"].value == YESTERDAY.start.timestamp()
    assert event.materialization.metadata["files_compared"].value == 2
    assert check(defs, instance, **config).get_asset_materialization_events() == []


def test_what_can_be_told_is_told_although_the_files_cannot_be_listed(stream, defs, instance, monkeypatch):
    monkeypatch.setenv("LPM_STREAM_LEGACY_URL", "nonsense://x")
    with pytest.raises(LpmStreamError):
        check(defs, instance)
    assert stored(instance, "fresh") == [(KEY, "SUCCEEDED"), ("A", "SUCCEEDED")]
    assert stored(instance, "complete_against_legacy") == []


def test_a_result_stands_when_the_stream_has_reported_again(stream, defs, instance):
    check(defs, instance)
    report = dg.AssetMaterialization(company_key(SPEC), partition=KEY)
    instance.report_runless_asset_event(report)
    key = dg.AssetCheckKey(health_key(SPEC), "fresh")
    found = instance.event_log_storage.get_asset_check_partition_info([key])
    assert {one.partition_key for one in found if one.is_current} == {"A", KEY}


def test_by_hand_one_partition(stream, defs, instance):
    instance.add_dynamic_partitions("customer", ["A", KEY])
    checks = dg.AssetSelection.checks(
        *(dg.AssetCheckKey(health_key(SPEC), name) for name in ("fresh", "not_parked"))
    )
    by_hand = dg.define_asset_job("by_hand", selection=checks)
    job = dg.Definitions.merge(defs, dg.Definitions(jobs=[by_hand])).resolve_job_def("by_hand")
    done = job.execute_in_process(instance=instance, tags={"dagster/partition": KEY})  # as the UI launches it
    run = instance.get_run_by_id(done.run_id)
    assert run is not None
    assert run.tags["company"] == COMPANY
    assert stored(instance, "fresh") == [(KEY, "SUCCEEDED")]
    assert stored(instance, "not_parked") == [(KEY, "SUCCEEDED")]
    assert stored(instance, "latency_slo") == []


def test_schedules_run_every_check(stream, defs, instance):
    names: list[str] = []
    for schedule in defs.get_repository_def().schedule_defs:
        assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
        with dg.build_schedule_context(instance, datetime.now(UTC)) as context:
            [request] = schedule.evaluate_tick(context).run_requests
        names += request.run_config["ops"]["check_orders_companies"]["config"]["checks"]
    assert sorted(names) == sorted(NAMES)


def look(defs: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """A tick of the sensor of files."""
    sensor = defs.get_repository_def().get_sensor_def("watch_orders_files")
    with dg.build_sensor_context(instance, cursor) as context:
        return sensor.evaluate_tick(context)


def test_arriving_files_are_compared_for_their_companies(stream, defs, instance):
    first = look(defs, instance)
    [request] = first.run_requests
    config = request.run_config["ops"]["check_orders_companies"]["config"]
    assert config["companies"] == ["A", COMPANY]
    assert request.tags["company"] == "2 companies"
    again = look(defs, instance, first.cursor)
    assert again.run_requests == []
    assert again.skip_message == "4 new files, 0 of them may still grow"
    check(defs, instance, **config)
    assert look(defs, instance, again.cursor).skip_message == "no new file"

    put(stream, COMPANY, rows("C%1", company=COMPANY), DAY, issue=1)
    [request] = look(defs, instance, again.cursor).run_requests
    assert request.run_config["ops"]["check_orders_companies"]["config"]["companies"] == [COMPANY]
    assert request.tags["company"] == COMPANY


def test_a_file_is_left_alone_until_two_looks_see_the_same(stream, settings, instance):
    defs = dg.build_defs_for_component(Feed(with_legacy(settle_seconds=3_600)))

    check(defs, instance)
    path = put(stream, "A", rows("A1"), DAY, issue=1)
    fresh = datetime.now(UTC) - timedelta(seconds=5)
    os.utime(Path(settings.legacy_url, path), (fresh.timestamp(), fresh.timestamp()))
    first = look(defs, instance)
    assert (first.run_requests, first.skip_message) == ([], "1 new files, 1 of them may still grow")
    [request] = look(defs, instance, first.cursor).run_requests
    assert request.tags["company"] == "A"
    with pytest.raises(LpmStreamError, match="cursor cannot be read"):
        look(defs, instance, "nonsense")


def test_a_feed_without_legacy_files_has_no_checks_of_them():
    defs = dg.build_defs_for_component(Feed(example.SPEC))
    names = {key.name for key in defs.get_repository_def().asset_graph.asset_check_keys}
    assert NAMES - names == {"complete_against_legacy", "sooner_than_legacy"}
    sensors = {sensor.name for sensor in defs.get_repository_def().sensor_defs}
    assert "deliver_orders" in sensors
    assert "watch_orders_files" not in sensors


@pytest.mark.parametrize(
    ("minutes", "past", "wanted"),
    [
        (1, 0, "*/1 * * * *"),
        (5, 0, "*/5 * * * *"),
        (5, 17, "2-59/5 * * * *"),
        (60, 17, "17 * * * *"),
        (240, 0, "0 0,4,8,12,16,20 * * *"),
        (1440, 17, "17 0 * * *"),
    ],
)
def test_the_pause_between_runs_is_the_feed_s(minutes, past, wanted):
    assert cron(minutes, past) == wanted
    ticks = list(itertools.islice(schedule_execution_time_iterator(0, wanted, "UTC"), 50))
    assert {after - before for before, after in itertools.pairwise(ticks)} == {timedelta(minutes=minutes)}


def test_a_feed_declares_when_its_checks_run(settings):
    often = SPEC.checks.model_copy(update={"every_minutes": 15, "thorough_every_minutes": 720})
    feed = Feed(SPEC.model_copy(update={"checks": often}))
    schedules = dg.build_defs_for_component(feed).get_repository_def().schedule_defs
    assert sorted(str(one.cron_schedule) for one in schedules) == ["*/15 * * * *", "17 0,12 * * *"]
