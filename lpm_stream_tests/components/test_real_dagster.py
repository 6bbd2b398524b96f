"""A real webserver and daemon on a real home directory, asked through GraphQL as a browser asks."""

import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError

import dagster as dg
import pytest

import lpm_stream
from lpm_stream.components.partitions import partition_key
from lpm_stream.control.registry import register
from lpm_stream.demo.dagster import Dagster, running_dagster
from lpm_stream.feed.load import load_feeds
from lpm_stream.source.simulate import Simulator
from lpm_stream.stream import open_stream
from lpm_stream_tests.components.graphql import EVENTS, LAUNCH, PARTITIONS, RUN, TICKS, ask, numbers

PROJECT = Path(lpm_stream.__file__).parents[1]
COMPANIES = ["ACME", 'it\'s "a/b...c"', "Zürich 🚑"]
PATIENCE = 100  # seconds; far more than any of this takes


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
def home(settings, monkeypatch):
    """A home directory with companies, a table of some commits, and an instance of Dagster."""
    monkeypatch.setenv("LPM_STREAM_TICK_SECONDS", "2")
    [spec] = load_feeds().values()
    simulator = Simulator(spec, settings.table_location(spec.source_table), COMPANIES, rate=60, seed=1)
    now = datetime.now(UTC)
    for second in range(3):
        simulator.step(now + timedelta(seconds=second))
    with open_stream(settings, spec) as stream:
        for company in COMPANIES:
            register(stream.store, company)
    dagster_home = settings.home / "dagster"
    dagster_home.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", dagster_home)
    with dg.DagsterInstance.from_config(str(dagster_home)):
        pass  # two processes that find no databases get in each other's way
    return settings


def test_sensors_partitions_and_a_run(home):
    keys = sorted(partition_key(company) for company in COMPANIES)
    with running_dagster(home, free_port()) as dagster:

        def question(query: str, **variables: Any) -> Any:
            dagster.require_alive()
            return ask(dagster.url, query, **variables)

        def ticks(name: str) -> list[Any]:
            found = question(TICKS, name=name)["sensorState"]["ticks"]
            assert [tick["error"] for tick in found if tick["error"]] == []
            return [tick for tick in found if tick["status"] == "SKIPPED"]

        eventually(lambda: answers(dagster))
        eventually(lambda: sorted(question(PARTITIONS, path=["companies", "tdr"])["partitionKeys"]) == keys)
        published = eventually(lambda: ticks("publish_tdr"))
        delivered = eventually(lambda: ticks("deliver_tdr"))
        assert "published 4 versions with 180 changes" in "".join(tick["skipReason"] for tick in published)
        assert "3 companies reported" in "".join(tick["skipReason"] for tick in delivered)

        source = question(EVENTS, path=["lakehouse", "tdr_streaming"])
        assert numbers(source["assetObservations"][0])["version"] == 3
        [hub] = question(EVENTS, path=["hub", "tdr_messages"])["assetMaterializations"]
        assert numbers(hub)["rows"] == 180
        for key in keys:
            [company] = question(EVENTS, path=["companies", "tdr"], partitions=[key])["assetMaterializations"]
            told = numbers(company)
            assert told["rows"] > 0
            assert told["watermark_version"] == 3
            assert 0 < told["latency_p50_seconds"] <= told["latency_max_seconds"]

        launched = question(LAUNCH, path=["companies", "tdr"], partition=keys[0])
        run_id = launched["run"]["runId"]
        eventually(lambda: question(RUN, id=run_id)["endTime"])
        assert question(RUN, id=run_id)["status"] == "SUCCESS"
        newest = question(EVENTS, path=["companies", "tdr"], partitions=[keys[0]])["assetMaterializations"][0]
        assert newest["runId"] == run_id
        assert numbers(newest)["watermark_version"] == 3
