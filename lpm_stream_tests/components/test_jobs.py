"""The jobs that people start, run in this process on a real home directory."""

import sqlite3
from contextlib import closing
from typing import Any

import dagster as dg
import pytest
from deltalake import DeltaTable

from lpm_stream.components.partitions import partition_key
from lpm_stream.control import audit, quarantine
from lpm_stream.control.registry import register
from lpm_stream.errors import LpmStreamError
from lpm_stream.stream import Stream
from lpm_stream_tests.example import SPEC, append, assert_delivered, deliver, orders, publish, stored

COMPANY = "it's / C%"


@pytest.fixture
def run(defs: dg.Definitions, instance: dg.DagsterInstance) -> Any:
    """Runs a job, for a company if one is given."""

    def execute(name: str, company: str | None = None, **config: Any) -> dg.ExecuteInProcessResult:
        key = None if company is None else partition_key(company)
        if key is not None:
            instance.add_dynamic_partitions("customer", [key])
        job = defs.resolve_job_def(name)
        return job.execute_in_process(instance=instance, partition_key=key, run_config=config or None)

    return execute


def commit(stream: Stream, *keys: str, company: str | None = COMPANY, **columns: Any) -> None:
    append(stream.table, orders(keys, [company] * len(keys), **columns))
    publish(stream)
    deliver(stream)


def damage(stream: Stream) -> None:
    [path] = (stream.settings.home / "companies").glob("it*.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM orders WHERE id = '1'")
        connection.commit()


@pytest.fixture
def company(stream: Stream) -> str:
    register(stream.store, COMPANY)
    return COMPANY


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_company_is_backfilled_as_a_partition(stream, run, company, rebuild):
    commit(stream, "1", "2")
    damage(stream)
    config = {"ops": {"deliver_orders_now": {"config": {"load_from": "table", "rebuild": rebuild}}}}
    result = run("backfill_orders", company, **(config if rebuild else {}))
    [event] = result.get_asset_materialization_events()
    assert event.materialization.partition == partition_key(company)
    assert event.materialization.metadata["rows"].value == 2
    assert_delivered(stream, [company])


def progress(result: dg.ExecuteInProcessResult) -> list[tuple[str | None, object, object]]:
    """What was told of loads: the partition, the rows read and all of them."""
    told = [event.asset_observation_data.asset_observation for event in result.get_asset_observation_events()]
    assert {one.asset_key for one in told} <= {dg.AssetKey(["companies", "orders"])}
    return [(one.partition, one.metadata["rows_read"].value, one.metadata["rows_in_all"].value) for one in told]


def test_a_load_tells_how_far_it_is(stream, run, company, monkeypatch):
    append(stream.table, orders(["1", "2", "3", "4", "5"], company))
    key = partition_key(company)
    assert set(progress(run("backfill_orders", company))) == {(key, 0, 5), (key, 5, 5)}
    monkeypatch.setattr("lpm_stream.components.loading._TELL_SECONDS", -1)
    monkeypatch.setattr("lpm_stream.delivery.backfill._RENEW_SECONDS", -1)
    monkeypatch.setattr("lpm_stream.delivery.backfill._BATCH_ROWS", 2)
    parts = [(key, 0, 5), (key, 2, 5), (key, 4, 5), (key, 5, 5), (key, 5, 5)]
    assert progress(run("backfill_orders", company)) == parts


def test_quarantine_is_replayed_and_discarded(stream, run, company):
    commit(stream, "1", "2", note="n" * 2_000)
    DeltaTable(stream.table).update(updates={"note": "'short'"}, predicate="id = '1'")
    with pytest.raises(
        dg.Failure, match=r"1 rows of company .* are still refused \(1 delivered, 0 super"
    ) as failed:
        run("replay_quarantine_orders", company)
    counts = {name: value.value for name, value in failed.value.metadata.items()}
    assert counts == {"delivered": 1, "superseded": 0, "still_refused": 1}
    assert stored(stream, company).keys() == {"1"}
    [entry] = quarantine.entries(stream.store, SPEC.name, company)
    op = {"discard_orders_rows": {"config": {"ids": ["0" * 64]}}}
    assert metadata(run("discard_quarantine_orders", company, ops=op)) == {"discarded": 0}
    assert quarantine.counts(stream.store, SPEC.name) == {company: 1}
    op["discard_orders_rows"]["config"]["ids"] = [entry.id]
    done = run("discard_quarantine_orders", company, ops=op)
    assert metadata(done) == {"discarded": 1}
    assert quarantine.counts(stream.store, SPEC.name) == {}
    by_dagster = [one for one in audit.entries(stream.store, company=company) if "Dagster run" in one.who]
    assert [one.action for one in by_dagster] == ["replay", "discard"]
    assert f"Dagster run {done.run_id[:8]} (" in by_dagster[-1].who


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Of what a run's one op has returned."""
    [output] = [event for event in result.all_node_events if event.is_successful_output]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def test_a_replay_that_delivers_everything_counts_it(stream, run, company):
    commit(stream, "1", "2", note="n" * 2_000)
    table = DeltaTable(stream.table)
    table.update(updates={"note": "'short'"}, predicate="id = '1'")
    table.delete("id = '2'")
    counts = {"delivered": 1, "superseded": 1, "still_refused": 0}
    assert metadata(run("replay_quarantine_orders", company)) == counts
    assert_delivered(stream, [company])


def test_rows_that_name_no_company_are_discarded(stream, run, company):
    commit(stream, "1", note="n" * 2_000)
    commit(stream, "2", "3", company=None)
    [first, _] = quarantine.entries(stream.store, SPEC.name, "")
    op = {"discard_nobodys_orders_rows": {"config": {"ids": [first.id]}}}
    assert metadata(run("discard_nobodys_quarantine_orders", ops=op)) == {"discarded": 1}
    assert metadata(run("discard_nobodys_quarantine_orders")) == {"discarded": 1}
    assert quarantine.counts(stream.store, SPEC.name) == {company: 1}


def test_the_feed_is_begun_anew(stream, run, company):
    commit(stream, "1", "2")
    append(stream.table, orders(["3", "4"], ["A", company]))
    told = progress(run("resync_orders"))
    assert {one for one in told if one[1] == one[2]} == {("A", 1, 1), ("B", 0, 0), (partition_key(company), 3, 3)}
    assert_delivered(stream, ["A", "B", company])
    commit(stream, "5")
    assert_delivered(stream, ["A", "B", company])


def test_companies_that_could_not_be_loaded_are_named(stream, run):
    (stream.settings.home / "companies").mkdir()
    (stream.settings.home / "companies" / "B.db").write_bytes(b"garbage" * 1_000)
    append(stream.table, orders(["3"], "A"))
    with pytest.raises(LpmStreamError, match=r"1 of 2 companies are not loaded.*'B': .*not a database"):
        run("resync_orders")
    assert_delivered(stream, ["A"])
