"""A real webserver and daemon on a real home directory, asked through GraphQL as a browser asks."""

import itertools
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import dagster as dg
import pytest
import sqlalchemy as sa

import lpm_stream
from lpm_stream.audit.run import audit
from lpm_stream.components.partitions import partition_key
from lpm_stream.control.registry import database_urls, register
from lpm_stream.demo.dagster import Dagster, running_dagster
from lpm_stream.feed.load import load_feeds
from lpm_stream.legacy.location import open_location
from lpm_stream.legacy.simulate import write_recent
from lpm_stream.settings import Settings
from lpm_stream.source.simulate import Simulator
from lpm_stream.stream import open_stream
from lpm_stream_tests.components.graphql import (
    BACKFILL,
    BACKFILLED,
    CHECK,
    CHECKED,
    EVENTS,
    LAUNCH,
    PARTITIONS,
    RUN,
    STALENESS,
    TICKS,
    ask,
    numbers,
)

PROJECT = Path(lpm_stream.__file__).parents[1]
COMPANIES = ["ACME", 'it\'s "a/b...c"', "Zürich 🚑"]
SOURCE, HUB, TABLE = ["lakehouse", "tdr_streaming"], ["hub", "tdr_messages"], ["companies", "tdr"]
HEALTH = ["companies", "tdr_health"]
PATIENCE = 400  # seconds; far more than any of this takes


def eventually(look: Callable[[], Any]) -> Any:
    """What `look` returns as soon as that is true."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.3)
    return found


def answers(dagster: Dagster) -> bool:
    dagster.require_alive()
    try:
        return bool(ask(dagster.url, "query { version }"))
    except URLError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def traffic(settings: Settings) -> Callable[[], None]:
    """Commits 60 changes with each call, for registered companies; it has done so three times."""
    [spec] = load_feeds().values()
    with open_stream(settings, spec) as stream:
        for company in COMPANIES:
            register(stream.store, company)
    simulator = Simulator(spec, settings.table_location(spec.source_table), COMPANIES, rate=60, seed=1)
    seconds = itertools.count()
    begun = datetime.now(UTC)

    def commit() -> None:
        simulator.step(begun + timedelta(seconds=next(seconds)))

    for _ in range(3):
        commit()
    return commit


@pytest.fixture
def dagster(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dagster]:
    """A webserver that answers, and a daemon; ticks are short."""
    monkeypatch.setenv("LPM_STREAM_TICK_SECONDS", "2")
    home = settings.home / "dagster"
    home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    with dg.DagsterInstance.from_config(str(home)):
        pass  # two processes that find no databases get in each other's way
    with running_dagster(settings, free_port()) as running:
        eventually(lambda: answers(running))
        yield running


def write_files(settings: Settings) -> None:
    """The legacy files of the last finished period, in which nothing happened."""
    [spec] = load_feeds().values()
    with open_stream(settings, spec) as stream, open_location(stream.settings) as location:
        write_recent(stream, location, COMPANIES, 1, datetime.now(UTC))


def test_legacy_files_and_a_check_by_hand(settings, traffic, dagster):
    keys = sorted(partition_key(company) for company in COMPANIES)

    def told(name: str, key: str) -> list[Any]:
        dagster.require_alive()
        return [
            one
            for one in ask(dagster.url, CHECKED, path=HEALTH, name=name, partition=key)
            if one["status"] not in {"IN_PROGRESS", "SKIPPED"}
        ]

    passed = {"success": True, "severity": "ERROR"}
    eventually(lambda: sorted(ask(dagster.url, PARTITIONS, path=TABLE)["partitionKeys"]) == keys)
    write_files(settings)
    for key in keys:
        found = eventually(partial(told, "complete_against_legacy", key))
        assert found[0]["evaluation"] == passed | {"partition": key}
    files = ask(dagster.url, EVENTS, path=["legacy", "tdr_files"], partitions=[keys[0]])["assetMaterializations"]
    assert numbers(files[0])["files_compared"] == 1

    tags = [{"key": "dagster/partition", "value": keys[1]}]
    run_id = ask(dagster.url, CHECK, path=HEALTH, name="complete_against_source", tags=tags)["run"]["runId"]
    eventually(lambda: ask(dagster.url, RUN, id=run_id)["endTime"])
    assert ask(dagster.url, RUN, id=run_id)["status"] == "SUCCESS"
    [found] = [one for one in told("complete_against_source", keys[1]) if one["runId"] == run_id]
    assert found["evaluation"] == passed | {"partition": keys[1]}


def lost_rows(settings: Settings) -> dict[str, tuple[int, int]]:
    """How many of its rows each company's database lacks, by partition key, and how many it has to have."""
    [spec] = load_feeds().values()
    with open_stream(settings, spec) as stream:
        databases = database_urls(stream.store, settings)
        report = audit(stream.spec, stream.table, databases, scratch=settings.home / "scratch")
    return {partition_key(one.company): (one.counts.missing, one.counts.rows_in_table) for one in report.companies}


def lose_all_rows(settings: Settings) -> None:
    """Empties the companies' tables behind everybody's back: only a load from the table brings the rows back."""
    [spec] = load_feeds().values()
    with open_stream(settings, spec) as stream:
        databases = database_urls(stream.store, settings)
    for url in databases.values():
        path = sa.make_url(url).database
        assert path is not None
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f'DELETE FROM "{spec.name}"')


def backfill(dagster: Dagster, **which: Any) -> set[str]:
    """Backfills companies as the page of the job does; the ids of the runs that this took, which ended well."""
    place = {"repositoryLocationName": "lpm_stream", "repositoryName": "__repository__"}
    job = {"partitionSetName": "backfill_tdr_partition_set", "repositorySelector": place}
    params = {"selector": job, "assetSelection": [{"path": TABLE}], "fromFailure": False, "tags": []} | which
    backfill_id = ask(dagster.url, BACKFILL, params=params)["backfillId"]

    def ended() -> Any:
        dagster.require_alive()
        found = ask(dagster.url, BACKFILLED, id=backfill_id)
        return found if found["status"] not in {"REQUESTED", "COMPLETED"} else None

    done = eventually(ended)
    assert done["status"] == "COMPLETED_SUCCESS", done
    return {run["runId"] for run in done["runs"]}


def assert_loaded(dagster: Dagster, runs: set[str], rows: dict[str, int]) -> None:
    """Each company was loaded by one of the runs, which told how far it was.

    Args:
        dagster: is asked.
        runs: their ids.
        rows: how many each company has, by partition key.
    """
    assert len(runs) == len(rows)
    for key, count in rows.items():
        found = ask(dagster.url, EVENTS, path=TABLE, partitions=[key])
        [made] = [one for one in found["assetMaterializations"] if one["runId"] in runs]
        assert numbers(made)["rows"] == count
        told = [numbers(one) for one in found["assetObservations"] if one["runId"] == made["runId"]]
        assert told[0] == {"rows_read": count, "rows_in_all": count}


@pytest.mark.timeout(900)
def test_sensors_partitions_runs_and_backfills(settings, traffic, dagster):
    keys = sorted(partition_key(company) for company in COMPANIES)

    def question(query: str, **variables: Any) -> Any:
        dagster.require_alive()
        return ask(dagster.url, query, **variables)

    def told(path: list[str], **which: Any) -> list[dict[str, float]]:
        return [numbers(event) for event in question(EVENTS, path=path, **which)["assetMaterializations"]]

    def told_of(key: str) -> list[dict[str, float]]:
        return told(TABLE, partitions=[key])

    def run(path: list[str], **tags: str) -> str:
        wanted = [{"key": f"dagster/{name}", "value": value} for name, value in tags.items()]
        run_id = question(LAUNCH, path=path, tags=wanted)["run"]["runId"]
        eventually(lambda: question(RUN, id=run_id)["endTime"])
        assert question(RUN, id=run_id)["status"] == "SUCCESS"
        return str(run_id)

    eventually(lambda: sorted(question(PARTITIONS, path=TABLE)["partitionKeys"]) == keys)
    eventually(lambda: sum(event["rows"] for event in told(HUB)) == 180)
    eventually(lambda: sum(event["rows"] for key in keys for event in told_of(key)) == 180)
    for key in keys:
        newest = told_of(key)[0]
        assert newest["watermark_version"] == 3
        assert 0 < newest["latency_p50_seconds"] <= newest["latency_max_seconds"]
    observed = question(EVENTS, path=SOURCE)["assetObservations"]
    assert numbers(observed[0])["version"] == 3

    for name in ("publish_tdr", "deliver_tdr"):
        ticks = question(TICKS, name=name)["sensorState"]["ticks"]
        assert [tick["error"] for tick in ticks if tick["error"]] == []
        assert "SKIPPED" in {tick["status"] for tick in ticks}  # what a tick without runs is called

    traffic()
    run(HUB)
    assert told(HUB)[0]["version"] == 4
    run_id = run(TABLE, partition=keys[0])
    newest_event = question(EVENTS, path=TABLE, partitions=[keys[0]])["assetMaterializations"][0]
    assert newest_event["runId"] == run_id
    assert numbers(newest_event)["watermark_version"] == 4
    for key in keys:
        assert question(STALENESS, path=TABLE, partition=key) == {"staleStatus": "FRESH", "staleCauses": []}

    lose_all_rows(settings)
    rows = {key: count for key, (_, count) in lost_rows(settings).items()}
    assert_loaded(dagster, backfill(dagster, partitionNames=keys[:2]), {key: rows[key] for key in keys[:2]})
    assert lost_rows(settings) == {key: (0 if key in keys[:2] else rows[key], rows[key]) for key in keys}
    assert_loaded(dagster, backfill(dagster, allPartitions=True), rows)
    assert lost_rows(settings) == {key: (0, rows[key]) for key in keys}
