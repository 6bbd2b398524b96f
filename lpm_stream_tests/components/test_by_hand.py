"""Assets observed and materialised by hand, in this process, on a real home directory."""

import sqlite3
import threading
from contextlib import closing

import dagster as dg
import pytest

from lpm_stream.components.partitions import partition_key
from lpm_stream.control import leases
from lpm_stream.control.registry import register
from lpm_stream.errors import LpmStreamError, SourceError
from lpm_stream.stream import open_stream
from lpm_stream_tests.example import SPEC, append, assert_delivered, create_table, orders, publish, stored

SOURCE = dg.AssetKey(["lakehouse", "orders_gold"])
HUB = dg.AssetKey(["hub", "orders_messages"])
COMPANIES = dg.AssetKey(["companies", "orders"])


@pytest.fixture
def run(defs, instance):
    """Observes or materialises one asset, and returns the metadata of its event."""

    def execute(key, partition=None):
        if partition is not None:
            instance.add_dynamic_partitions("customer", [partition])
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[key], partition_key=partition)
        observed = [
            event.asset_observation_data.asset_observation for event in result.get_asset_observation_events()
        ]
        made = [event.materialization for event in result.get_asset_materialization_events()]
        [event] = observed + made
        assert (event.asset_key, event.partition) == (key, partition)
        return {name: value.value for name, value in event.metadata.items()}

    return execute


@pytest.fixture
def elsewhere(settings, stream):
    """Another worker that publishes and delivers all the time."""
    stop = threading.Event()

    def work():
        with open_stream(settings, SPEC) as mine:
            publishing = threading.Thread(
                target=mine.publisher().drain, kwargs={"poll_seconds": 0.01, "go_on": lambda: not stop.is_set()}
            )
            publishing.start()
            mine.deliverer().drain(go_on=lambda: not stop.is_set())
            publishing.join()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_the_source_is_observed(stream, run):
    append(stream.table, orders(["1", "2"], "A"))
    told = run(SOURCE)
    assert (told["version"], told["dagster/row_count"], told["change_data_feed"]) == (1, 2, True)


def test_a_source_that_cannot_be_followed_says_why(settings, run):
    create_table(settings.table_location(SPEC.source_table), orders(["1"], "A").drop("note"), cdf=False)
    told = run(SOURCE)
    assert told["change_data_feed"] is False
    assert "column note (string) is missing" in told["misfit"]


def test_a_missing_source_is_a_clear_error(run):
    with pytest.raises(SourceError, match="no Delta table at"):
        run(SOURCE)


def test_the_hub_catches_up(stream, run):
    append(stream.table, orders(["1", "2", "3"], ["A", "B", "A"]))
    told = run(HUB)
    assert (told["version"], told["rows"], told["messages"]) == (1, 3, 2)
    assert run(HUB)["versions"] == 0


def test_a_company_catches_up(stream, run):
    append(stream.table, orders(["1", "2", "3"], ["A", "B", "A"]))
    publish(stream)
    told = run(COMPANIES, "A")
    assert_delivered(stream, ["A"])
    assert (told["rows"], told["watermark_version"]) == (2, 1)
    assert told["lag_seconds"] > 0
    assert told["latency_p99_seconds"] > 0


def test_a_company_without_any_rows_is_caught_up(stream, run):
    assert run(COMPANIES, "A") == {"rows": 0}


@pytest.mark.parametrize("company", ["a...b", 'it\'s "a/b"\t%', "🚑" * 200])
def test_a_company_with_an_odd_id_catches_up(stream, run, company):
    register(stream.store, company)
    append(stream.table, orders(["1"], company))
    publish(stream)
    assert run(COMPANIES, partition_key(company))["rows"] == 1
    assert stored(stream, company).keys() == {"1"}


def test_what_another_worker_does_is_waited_for(stream, run, elsewhere):
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    assert run(HUB)["version"] == 1
    assert run(COMPANIES, "A")["watermark_version"] == 1
    assert_delivered(stream, ["A"])


def test_a_worker_that_does_nothing_is_not_waited_for_for_ever(stream, run, monkeypatch):
    monkeypatch.setattr("lpm_stream.components.by_hand._PATIENCE_SECONDS", 0.1)
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    assert leases.acquire(stream.store, "deliver:orders", "deliver@elsewhere:1:1")
    with pytest.raises(LpmStreamError, match="deliver@elsewhere:1:1 has not caught up"):
        run(COMPANIES, "A")


def test_a_parked_company_fails_with_the_reason(stream, run):
    (stream.settings.home / "companies" / "A.db").mkdir(parents=True)
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    with pytest.raises(LpmStreamError, match="'A' is parked since"):
        run(COMPANIES, "A")
    assert run(COMPANIES, "B")["rows"] == 0
    assert stored(stream, "B").keys() == {"2"}


def test_an_unregistered_company_is_a_clear_error(stream, run):
    with pytest.raises(LpmStreamError, match="no registered company has the partition key 'NOBODY'"):
        run(COMPANIES, "NOBODY")


def test_a_damaged_hub_is_a_clear_error(stream, run):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    for partition in stream.hub.partitions():
        with closing(sqlite3.connect(stream.settings.home / "hub" / f"{partition}.db")) as connection, connection:
            connection.execute("UPDATE messages SET checksum = 0")
    with pytest.raises(LpmStreamError, match="the hub has lost its changes up to version 1"):
        run(COMPANIES, "A")
