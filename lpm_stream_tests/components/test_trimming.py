"""Dagster's storage is trimmed, in SQLite and PostgreSQL, and its pages lack nothing of what they need."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunTagsTable

from lpm_stream.components.trimming import Trimmed, trim
from lpm_stream_tests import postgresql

TABLE, HUB = dg.AssetKey("table"), dg.AssetKey("hub")
CHECK = dg.AssetCheckKey(TABLE, "fine")


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on disk, with each kind of storage in turn."""
    if request.param == "sqlite":
        (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
        with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
            yield opened
        return
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    with server.name() as name:
        server.run(f"CREATE DATABASE {name}")
        url = server.url(name).set(drivername="postgresql+psycopg2").render_as_string()
        storage = f"telemetry: {{enabled: false}}\nstorage: {{postgres: {{postgres_url: '{url}'}}}}\n"
        (tmp_path / "dagster.yaml").write_text(storage, encoding="utf-8")
        with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
            yield opened


@dg.op
def check(context: dg.OpExecutionContext) -> None:
    for partition in context.run.tags["partitions"].split():
        result = dg.AssetCheckEvaluation(TABLE, CHECK.name, passed=True, metadata={}, partition=partition)
        context.log_event(result)  # type: ignore[arg-type]  # it takes them, its types lag


@dg.job
def check_all() -> None:
    check()


def run_check(instance: dg.DagsterInstance, partitions: str) -> str:
    return check_all.execute_in_process(instance=instance, tags={"partitions": partitions}).run_id


def report(instance: dg.DagsterInstance, *partitions: str) -> None:
    for partition in partitions:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(TABLE, partition=partition, tags={"dagster/data_version": "1"})
        )


def trim_what_is_before(instance: dg.DagsterInstance, instant: datetime) -> Trimmed:
    return trim(instance, timedelta(0), timedelta(0), instant)


def count(instance: dg.DagsterInstance, table: sa.Table = SqlEventLogStorageTable, **which: str) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    for column, value in which.items():
        query = query.where(table.c[column] == value)
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as connection:
        return int(connection.execute(query).scalar_one())


def cut() -> datetime:
    time.sleep(0.01)
    return datetime.now(UTC)


def test_what_is_old_goes_and_the_newest_stays(instance):
    instance.add_dynamic_partitions("company", ["A", "B"])
    report(instance, "A", "A", "B", "A", "B")
    for rows in range(3):
        instance.report_runless_asset_event(dg.AssetMaterialization(HUB, metadata={"rows": rows}))
        instance.report_runless_asset_event(dg.AssetObservation(TABLE, partition="B"))
    instant = cut()
    report(instance, "A")

    done = trim_what_is_before(instance, instant)
    assert done == Trimmed(runs=0, events=3 + 1 + 2 + 2, evaluations=0)
    assert trim_what_is_before(instance, instant) == Trimmed(0, 0, 0)

    assert instance.get_materialized_partitions(TABLE) == {"A", "B"}
    newest = instance.get_latest_materialization_event(HUB).asset_materialization
    assert newest.metadata["rows"].value == 2
    assert len(instance.fetch_materializations(HUB, 10).records) == 1
    assert len(instance.fetch_materializations(TABLE, 10).records) == 2
    assert len(instance.fetch_observations(TABLE, 10).records) == 1
    assert count(instance, AssetEventTagsTable) == 2
    assert instance.get_dynamic_partitions("company") == ["A", "B"]


def test_the_copy_that_sqlite_keeps_is_trimmed_as_well(instance):
    report(instance, *"AAAAA")
    trim_what_is_before(instance, cut())
    assert len(instance.event_log_storage.get_logs_for_run("")) == 1


def test_more_than_one_transaction_takes(instance, monkeypatch):
    monkeypatch.setattr("lpm_stream.components.trimming._AT_ONCE", 3)
    report(instance, *"BAACAAAAAA")
    assert trim_what_is_before(instance, cut()).events == 7
    assert instance.get_materialized_partitions(TABLE) == {"A", "B", "C"}


def test_runs_go_but_for_those_whose_results_are_the_newest(instance):
    first, second, third = (run_check(instance, which) for which in ("A B", "A B", "A"))
    logs = Path(instance.storage_directory())
    instant = cut()
    running = instance.create_run_for_job(check_all).run_id
    assert trim_what_is_before(instance, instant) == Trimmed(runs=1, events=0, evaluations=3)
    assert {record.dagster_run.run_id for record in instance.get_run_records()} == {second, third, running}
    assert count(instance, run_id=first) == 0
    assert count(instance, run_id=second) > 0
    with instance.run_storage.connect() as connection:
        assert connection.execute(sa.select(RunTagsTable).where(RunTagsTable.c.run_id == first)).all() == []
    assert [one for _, folders, files in os.walk(logs) for one in (*folders, *files) if first in one] == []
    found = instance.event_log_storage.get_asset_check_partition_info([CHECK])
    assert {one.partition_key for one in found} == {"A", "B"}


def test_a_run_that_made_a_partition_stays(instance):
    @dg.op
    def load(context: dg.OpExecutionContext) -> None:
        context.log_event(dg.AssetObservation(TABLE, partition="A"))  # its progress
        context.log_event(dg.AssetMaterialization(TABLE, partition="A"))

    @dg.job
    def load_all() -> None:
        load()

    load_all.execute_in_process(instance=instance)
    kept = load_all.execute_in_process(instance=instance).run_id
    assert trim_what_is_before(instance, cut()).runs == 1
    assert [record.dagster_run.run_id for record in instance.get_run_records()] == [kept]
    report(instance, "A")
    assert trim_what_is_before(instance, cut()).runs == 1
    assert instance.get_materialized_partitions(TABLE) == {"A"}


def test_old_ticks_go(instance):
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("lpm_stream"), "__repository__")
    origin = RemoteInstigatorOrigin(repository_origin=repository, instigator_name="deliver")
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE)
    instance.add_instigator_state(state)
    now = datetime.now(UTC)
    for hours in (1, 3, 4):
        instance.create_tick(
            TickData(
                state.instigator_origin_id,
                "deliver",
                InstigatorType.SENSOR,
                TickStatus.SKIPPED,
                (now - timedelta(hours=hours)).timestamp(),
                selector_id=state.selector_id,
            )
        )
    trim_what_is_before(instance, now - timedelta(hours=2))
    assert len(instance.get_ticks(state.instigator_origin_id, state.selector_id)) == 1
