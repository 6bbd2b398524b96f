"""The sensors' ticks, evaluated in this process on a real home directory."""

import sqlite3
from contextlib import closing
from typing import Any

import dagster as dg
import pytest
from deltalake import DeltaTable, write_deltalake

from lpm_stream.components.partitions import partition_key
from lpm_stream.components.tally import Tally
from lpm_stream.control import leases, ledger, parking
from lpm_stream.control.entries import set_state
from lpm_stream.control.registry import register
from lpm_stream.errors import HubError, SchemaError
from lpm_stream_tests.example import SPEC, START, append, assert_delivered, deliver, orders, publish

ODD_IDS = ["it's", "a/b", "..", "a...b", "tab\tbed", "100%", "Zürich 🚑", 'say "hi"', "x" * 300]


def values(event: Any) -> dict[str, Any]:
    return {name: value.value for name, value in event.metadata.items()}


def rows(data: Any) -> dict[str, int]:
    return {event.partition: event.metadata["rows"].value for event in data.asset_events}


def test_publish_reports_the_hub_and_the_source(stream, tick):
    append(stream.table, orders(["1", "2", "3"], ["A", "B", "A"]))
    append(stream.table, orders(["4", "5"], ["A", None]))
    data = tick("publish_orders")
    observed, published = data.asset_events
    assert isinstance(observed, dg.AssetObservation)
    assert observed.asset_key.path == ["lakehouse", "orders_gold"]
    assert values(observed) == {
        "version": 2,
        "dagster/row_count": 5,
        "change_data_feed": True,
        "held_columns": "none",
        "table_id": str(DeltaTable(stream.table).metadata().id),
        "location": stream.table,
    }
    assert published.asset_key.path == ["hub", "orders_messages"]
    counts = values(published)
    assert counts["bytes_per_row"] == pytest.approx(counts["bytes"] / 4, abs=0.1)
    del counts["bytes"], counts["bytes_per_row"]
    assert counts == {
        "version": 2,
        "versions_behind": 0,
        "versions": 3,
        "rows": 4,
        "messages": 3,
        "quarantined": 1,
    }
    assert data.skip_message == "published 3 versions with 4 changes, up to version 2, 1 rows quarantined"


def test_publish_says_so_when_there_is_nothing(stream, tick):
    tick("publish_orders")
    data = tick("publish_orders")
    assert not data.asset_events
    assert data.skip_message == "no new commit; the cursor is at version 0"


def test_publish_reports_once_in_its_window_all_that_it_did(stream, tick):
    first = tick("publish_orders")
    append(stream.table, orders(["1", "2"], "A"))
    second = tick("publish_orders", first.cursor)
    assert not second.asset_events
    assert second.skip_message == "published 1 versions with 2 changes, up to version 1"
    append(stream.table, orders(["3"], "A"))
    overdue = Tally.read(second.cursor).model_copy(update={"reported_at": START})
    third = tick("publish_orders", overdue.model_dump_json())
    counts = values(third.asset_events[1])
    assert (counts["version"], counts["versions"], counts["rows"]) == (2, 2, 3)


def test_publish_shows_what_is_held_back(stream, tick):
    append(stream.table, orders(["1"], "A").with_columns(extra=1), schema_mode="merge")
    observed, _ = tick("publish_orders").asset_events
    assert observed.metadata["held_columns"].value == "extra"


def test_publish_fails_with_the_reason(stream, tick):
    append(stream.table, orders(["1"], "A"))
    narrower = orders(["2"], "A").drop("note")
    write_deltalake(stream.table, narrower.to_arrow(), mode="overwrite", schema_mode="overwrite")
    with pytest.raises(SchemaError, match="column note"):
        tick("publish_orders")


def test_deliver_reports_companies_and_adds_their_partitions(stream, tick, instance):
    append(stream.table, orders(["1", "2", "3"], ["A", "B", "A"]))
    publish(stream)
    register(stream.store, "NEW")
    data = tick("deliver_orders")
    assert_delivered(stream, ["A", "B"])
    assert sorted(instance.get_dynamic_partitions("customer")) == ["A", "B", "NEW"]
    assert rows(data) == {"A": 2, "B": 1}
    [event] = [event for event in data.asset_events if event.partition == "A"]
    assert event.asset_key.path == ["companies", "orders"]
    reported = values(event)
    assert reported["watermark_version"] == 1
    assert 0 < reported["latency_p50_seconds"] <= reported["latency_max_seconds"]
    assert reported.keys() == {
        "rows",
        "latency_p50_seconds",
        "latency_p95_seconds",
        "latency_p99_seconds",
        "latency_max_seconds",
        "lag_seconds",
        "watermark_version",
    }
    assert data.skip_message == "delivered 3 changes to 2 companies; 2 companies reported"


def test_a_company_is_reported_once_in_its_window_with_all_it_received(stream, tick):
    append(stream.table, orders(["1", "2"], ["A", "A"]))
    publish(stream)
    first = tick("deliver_orders")
    assert rows(first) == {"A": 2}
    append(stream.table, orders(["3", "4", "5"], ["A", "B", "A"]))
    publish(stream)
    second = tick("deliver_orders", first.cursor)
    assert rows(second) == {"B": 1}
    third = tick("deliver_orders", second.cursor)
    assert rows(third) == {}
    assert third.skip_message == "nothing to deliver"


def test_ids_of_any_kind_become_partitions(stream, tick, instance):
    for company in ODD_IDS:
        register(stream.store, company)
    append(stream.table, orders([str(index) for index in range(len(ODD_IDS))], ODD_IDS))
    publish(stream)
    data = tick("deliver_orders")
    assert_delivered(stream, ODD_IDS)
    keys = {partition_key(company) for company in ODD_IDS}
    assert rows(data) == dict.fromkeys(keys, 1)
    assert set(instance.get_dynamic_partitions("customer")) == keys | {"A", "B"}
    assert instance.get_materialized_partitions(dg.AssetKey(["companies", "orders"])) == keys


def test_ticks_stand_by_while_another_worker_is_at_it(stream, tick):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    for role in ("publish", "deliver"):
        assert leases.acquire(stream.store, f"{role}:orders", f"{role}@elsewhere:1:1")
        data = tick(f"{role}_orders")
        assert not data.asset_events
        assert data.skip_message == f"standing by: {role}@elsewhere:1:1 is at it"
    assert ledger.read(stream.store, SPEC.name) == {}


def test_what_another_worker_delivered_is_reported(stream, tick):
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    deliver(stream)
    assert leases.acquire(stream.store, "deliver:orders", "deliver@elsewhere:1:1")
    data = tick("deliver_orders")
    assert rows(data) == {"A": 1, "B": 1}
    assert data.skip_message == "standing by: deliver@elsewhere:1:1 is at it; 2 companies reported"


def test_a_damaged_hub_fails_the_tick_only_when_there_is_nothing_to_report(stream, tick, monkeypatch):
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    first = tick("deliver_orders")
    register(stream.store, "D")  # whose messages are in another partition than A's
    append(stream.table, orders(["3", "4"], ["A", "D"]))
    publish(stream)
    for partition in stream.hub.partitions():
        with closing(sqlite3.connect(stream.settings.home / "hub" / f"{partition}.db")) as connection, connection:
            connection.execute("UPDATE messages SET checksum = 0 WHERE partition_key = 'A'")
    monkeypatch.setenv("LPM_STREAM_TICK_SECONDS", "1")
    second = tick("deliver_orders", first.cursor)
    assert rows(second) == {"D": 1}
    assert "1 companies reported; hub partition 3: message 2 is damaged" in second.skip_message
    assert parking.read_parked(stream.store, SPEC.name)["A"].kind == "gap"
    append(stream.table, orders(["5"], "B"))
    publish(stream)
    for partition in stream.hub.partitions():
        with closing(sqlite3.connect(stream.settings.home / "hub" / f"{partition}.db")) as connection, connection:
            connection.execute("UPDATE messages SET checksum = 0 WHERE partition_key = 'B'")
    with pytest.raises(HubError, match="is damaged"):
        tick("deliver_orders", second.cursor)


def test_what_a_lost_tick_delivered_is_reported_by_the_next(stream, tick):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    tick("deliver_orders")
    assert rows(tick("deliver_orders")) == {"A": 1}
    assert ledger.read(stream.store, SPEC.name)["A"].changes == 1


def test_a_parked_company_is_reported_with_what_an_operator_asks(stream, tick):
    (stream.settings.home / "companies").mkdir()
    (stream.settings.home / "companies" / "A.db").write_bytes(b"garbage" * 1_000)
    append(stream.table, orders(["1", "2"], ["A", "B"]))
    publish(stream)
    first = tick("deliver_orders")
    [seen] = [event for event in first.asset_events if isinstance(event, dg.AssetObservation)]
    assert seen.partition == "A"
    values: dict[str, Any] = {name: value.value for name, value in seen.metadata.items()}
    assert "not a database" in values["parked_because"]
    assert values["changes_waiting"] == 1
    assert values["next_try_at"] >= values["parked_since"]
    second = tick("deliver_orders", first.cursor)
    assert not any(isinstance(event, dg.AssetObservation) for event in second.asset_events)


def test_partitions_of_removed_companies_are_removed(stream, tick, instance):
    tick("deliver_orders")
    assert sorted(instance.get_dynamic_partitions("customer")) == ["A", "B"]
    set_state(stream.store, "A", "offboarding")
    [request] = tick("deliver_orders").dynamic_partitions_requests
    assert isinstance(request, dg.DeleteDynamicPartitionsRequest)
    assert request.partition_keys == ["A"]
