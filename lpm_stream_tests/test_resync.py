"""The way out of a gap."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from lpm_stream import resync
from lpm_stream.control import leases, parking, progress, tables
from lpm_stream.control.registry import register, registered
from lpm_stream.delivery import backfill as backfill_module
from lpm_stream.delivery import worker
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.lanes import Outcome
from lpm_stream.errors import LpmStreamError, SchemaError, SourceError
from lpm_stream.hub.local import LocalHub
from lpm_stream.stream import Stream
from lpm_stream_tests.example import (
    SPEC,
    append,
    assert_delivered,
    create_table,
    deliver,
    orders,
    publish,
    source_rows,
    stored,
)


@pytest.fixture
def evolving(stream: Stream) -> Stream:
    """The stream with the policy `evolve`."""
    return replace(stream, spec=SPEC.model_copy(update={"schema_policy": "evolve"}))


def begin_and_load(stream: Stream) -> None:
    resync.begin_anew(stream)
    load(stream)


def load(stream: Stream) -> None:
    companies = registered(stream.store)
    done = resync.load(stream, companies, rebuild=False, go_on=lambda: True, tell=lambda *_: None)
    assert [one.problem for one in done] == [""] * len(companies)


def commit(stream: Stream, **keys: str) -> None:
    for company, these in keys.items():
        append(stream.table, orders(these.split(), company))
    publish(stream)


def parked(stream: Stream) -> dict[str, parking.Parked]:
    return parking.read_parked(stream.store, SPEC.name)


def deliver_all(stream: Stream) -> None:
    deliver(stream)
    for _ in range(3):
        with stream.store.write() as connection:
            connection.execute(tables.parked.update().values(next_try_at=datetime(2026, 1, 1, tzinfo=UTC)))
        deliver(stream)


def goes_on(stream: Stream) -> None:
    """The stream delivers again as if nothing had been."""
    commit(stream, A="after1", B="after2")
    deliver_all(stream)
    assert parked(stream) == {}
    assert_delivered(stream, ["A", "B"])


def test_a_table_created_anew_is_followed_from_its_beginning(stream):
    for number in range(5):
        commit(stream, A=f"{number}", B=f"b{number}")
    deliver(stream)
    shutil.rmtree(stream.table)
    create_table(stream.table, orders(["1", "x"], "A", amount=9))
    with pytest.raises(SourceError, match="lpm-stream resync"):
        publish(stream)
    begin_and_load(stream)
    assert stored(stream, "A").keys() == {"1", "x"}
    goes_on(stream)


def test_a_table_set_back_to_an_older_copy_is_followed_from_there(stream, tmp_path):
    commit(stream, A="1 2", B="3")
    shutil.copytree(stream.table, tmp_path / "copy")
    for number in range(5):
        commit(stream, A=f"later{number}", B=f"b{number}")
    deliver(stream)
    shutil.rmtree(stream.table)
    shutil.copytree(tmp_path / "copy", stream.table)
    with pytest.raises(SourceError, match="lpm-stream resync"):
        publish(stream)
    begin_and_load(stream)
    goes_on(stream)


@pytest.mark.parametrize("race", [False, True])
def test_what_was_published_before_says_nothing_about_the_versions_to_come(stream, race):
    """Neither of a company that is away meanwhile, nor of one whose backfill ends only after it."""
    for number in range(8):
        commit(stream, A=f"a{number}", B=f"b{number}")
    deliver(stream)

    begun: list[int] = []

    def begin_anew() -> bool:
        if not begun:
            shutil.rmtree(f"{stream.table}/_delta_log")
            create_table(stream.table)
            begun.append(resync.begin_anew(stream))
        return True

    def set_state(state: str) -> None:
        with stream.store.write() as connection:
            mine = tables.companies.c.company == "A"
            connection.execute(tables.companies.update().where(mine).values(state=state))

    if race:
        backfill(stream, "A", rebuild=False, go_on=begin_anew, tell=lambda _rows, _total: None)
    else:
        set_state("offboarding")
        begin_anew()
        set_state("active")
    for company in ("A", "B"):
        backfill(stream, company, rebuild=True, go_on=lambda: True, tell=lambda _rows, _total: None)
    for number in range(3):
        commit(stream, A=f"c{number}")
        commit(stream, B=f"d{number}")
        deliver(stream)
        assert parked(stream) == {}
    assert_delivered(stream, ["A", "B"])


def test_until_a_company_is_loaded_nothing_is_delivered_to_it(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    append(stream.table, orders(["3", "4"], ["A", "B"]))
    resync.begin_anew(stream)  # version 3 will not be published
    commit(stream, A="5")
    deliver_all(stream)
    assert stored(stream, "A").keys() == {"1"}
    assert {company: one.kind for company, one in parked(stream).items()} == {"A": "gap", "B": "gap"}
    load(stream)
    deliver_all(stream)
    assert parked(stream) == {}
    assert_delivered(stream, ["A", "B"])
    goes_on(stream)


def test_log_clean_up_behind_the_cursor_is_noticed_and_mended(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    for number in range(12):
        append(stream.table, orders([f"n{number}"], "A"))
    table = DeltaTable(stream.table)
    table.create_checkpoint()
    for log in sorted((stream.settings.home / "tables" / SPEC.source_table / "_delta_log").glob("*.json"))[:8]:
        log.unlink()
    with pytest.raises(SourceError, match="begin anew with lpm-stream resync"):
        publish(stream)
    begin_and_load(stream)
    assert_delivered(stream, ["A", "B"])
    goes_on(stream)


def test_change_data_feed_that_was_off_for_a_while_is_mended(stream):
    shutil.rmtree(stream.table)
    create_table(stream.table, orders(["old"], "A"), cdf=False)
    table = DeltaTable(stream.table)
    table.alter.set_table_properties({"delta.enableChangeDataFeed": "true"})
    with pytest.raises(SourceError, match=r"Change Data Feed was off at version 0 .* lpm-stream resync"):
        publish(stream)
    begin_and_load(stream)
    assert_delivered(stream, ["A"])
    goes_on(stream)


def test_a_table_that_was_corrected_is_followed_from_there(stream):
    """Correcting it does not change the version that did not fit; one could only declare what that one has."""
    commit(stream, A="1", B="2")
    deliver(stream)
    write_deltalake(
        stream.table, orders(["1"], "A").drop("note").to_arrow(), mode="overwrite", schema_mode="overwrite"
    )
    write_deltalake(stream.table, orders(["1", "3"], "A").to_arrow(), mode="overwrite", schema_mode="overwrite")
    for _ in range(2):
        with pytest.raises(SchemaError, match="correct the table, then begin anew with lpm-stream resync"):
            publish(stream)
    begin_and_load(stream)
    assert_delivered(stream, ["A", "B"])
    goes_on(stream)


@pytest.mark.parametrize("again", [None, "blue", 7])
def test_a_column_taken_in_that_goes_or_comes_back_as_another_is_not_followed_blindly(evolving, again):
    """The company tables would keep the values that the rows had before."""
    table = evolving.table
    append(table, orders(["1", "2"], "A").with_columns(colour=pl.lit("red")), schema_mode="merge")
    publish(evolving)
    deliver(evolving)
    write_deltalake(table, orders(["1", "2"], "A").to_arrow(), mode="overwrite", schema_mode="overwrite")
    if again is not None:
        append(table, orders(["3"], "A").with_columns(colour=pl.lit(again)), schema_mode="merge")
    for _ in range(2):
        with pytest.raises(SchemaError, match=r"column colour \(taken in as string\) is missing.* resync"):
            publish(evolving)
    begin_and_load(evolving)
    colours = {row["id"]: row.get("colour") for row in source_rows(table).iter_rows(named=True)}
    assert {key: row.get("colour") for key, row in stored(evolving, "A").items()} == colours
    append(table, orders(["4"], "A").with_columns(colour=pl.lit(again or "green")), schema_mode="merge")
    publish(evolving)
    deliver_all(evolving)
    assert stored(evolving, "A")["4"]["colour"] == (again or "green")
    assert parked(evolving) == {}


def test_a_column_in_the_table_at_a_resync_counts_as_taken_in(evolving):
    append(evolving.table, orders(["1"], "A").with_columns(colour=pl.lit("red")), schema_mode="merge")
    begin_and_load(evolving)
    write_deltalake(evolving.table, orders(["1"], "A").to_arrow(), mode="overwrite", schema_mode="overwrite")
    with pytest.raises(SchemaError, match="column colour"):
        publish(evolving)


def test_a_hub_that_was_lost_is_mended(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    commit(stream, A="3", B="4")
    assert isinstance(stream.hub, LocalHub)
    stream.hub.close()
    shutil.rmtree(stream.settings.home / "hub")
    stream.hub._directory.mkdir()
    deliver_all(stream)
    assert {one.kind for one in parked(stream).values()} == {"gap"}
    load(stream)
    deliver_all(stream)
    assert parked(stream) == {}
    assert_delivered(stream, ["A", "B"])
    goes_on(stream)


def test_the_control_store_of_before_a_resync_is_noticed(stream, tmp_path):
    commit(stream, A="1", B="2")
    deliver(stream)
    shutil.copy(stream.settings.home / "control.db", tmp_path / "control.db")
    append(stream.table, orders(["3"], "A"))
    begin_and_load(stream)
    commit(stream, A="4", B="5")
    deliver_all(stream)
    before = progress.read_cursor(stream.store, SPEC.name)
    assert before is not None
    with stream.store.write() as connection:  # as the older copy has it
        progress.write_cursor(connection, SPEC.name, progress.Cursor(before.table_id, 2, 2))
        connection.execute(tables.published.delete())
    commit(stream, A="6", B="7")
    deliver_all(stream)
    assert {one.kind for one in parked(stream).values()} == {"gap"}
    load(stream)
    goes_on(stream)


def test_a_publisher_at_work_is_not_interrupted(stream, monkeypatch):
    monkeypatch.setattr(resync, "_PATIENCE_SECONDS", 0.5)
    commit(stream, A="1")
    name = leases.lease_name("publish", SPEC.name)
    assert leases.acquire(stream.store, name, leases.worker_name("publish"))
    with pytest.raises(LpmStreamError, match="is publishing feed orders without trouble"):
        resync.begin_anew(stream)


def test_one_company_that_fails_does_not_keep_the_others_waiting(stream):
    commit(stream, A="1", B="2")
    path = stream.settings.home / "companies" / "A.db"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"garbage" * 1_000)
    resync.begin_anew(stream)
    done = resync.load(stream, ["A", "B"], rebuild=False, go_on=lambda: True, tell=lambda *_: None)
    assert ["not a database" in one.problem for one in done] == [True, False]
    assert_delivered(stream, ["B"])


def test_a_table_set_back_that_has_grown_again_is_noticed(stream, tmp_path):
    commit(stream, A="1")
    shutil.copytree(stream.table, tmp_path / "copy")
    commit(stream, A="2 3", B="4")
    deliver(stream)
    shutil.rmtree(stream.table)
    shutil.copytree(tmp_path / "copy", stream.table)
    for number in range(4):
        append(stream.table, orders([f"n{number}"], "A"))
    with pytest.raises(SourceError, match=r"was set back and grew again; .* lpm-stream resync"):
        publish(stream)
    begin_and_load(stream)
    goes_on(stream)


def test_a_backfill_killed_before_a_resync_leaves_no_rows_behind(stream, monkeypatch):
    commit(stream, C="1 2 3 4")
    register(stream.store, "C")
    monkeypatch.setattr(backfill_module, "_BATCH_ROWS", 2)
    answers = iter([True, False])
    with pytest.raises(LpmStreamError, match="was stopped"):
        backfill(stream, "C", rebuild=False, go_on=lambda: next(answers), tell=lambda *_: None)
    assert len(stored(stream, "C")) == 2
    shutil.rmtree(stream.table)
    create_table(stream.table, orders(["1"], "C", amount=9))
    begin_and_load(stream)
    assert stored(stream, "C").keys() == {"1"}
    assert stored(stream, "C")["1"]["amount"] == 9
    assert progress.read_incomplete(stream.store, SPEC.name) == {}


def test_an_older_control_store_and_a_lost_hub_together_are_noticed(stream):
    commit(stream, A="1", B="2")
    deliver(stream)
    before = progress.read_cursor(stream.store, SPEC.name)
    assert before is not None
    begin_and_load(stream)
    commit(stream, A="3", B="4")
    deliver_all(stream)
    stream.hub.close()
    shutil.rmtree(stream.settings.home / "hub")
    stream.hub._directory.mkdir()
    with stream.store.write() as connection:
        progress.write_cursor(connection, SPEC.name, replace(before, version=DeltaTable(stream.table).version()))
        progress.write_published(connection, SPEC.name, dict.fromkeys("AB", before.version))
    commit(stream, A="new")
    deliver_all(stream)
    assert parked(stream)["A"].kind == "gap"
    begin_and_load(stream)
    goes_on(stream)


def test_a_company_that_was_never_delivered_to_goes_on_after_a_resync(stream):
    commit(stream, A="1", B="2")
    begin_and_load(stream)
    deliver_all(stream)
    assert parked(stream) == {}
    goes_on(stream)


def test_who_registers_after_a_resync_is_known_to_lack_what_came_before(stream):
    commit(stream, C="c1")
    begin_and_load(stream)
    register(stream.store, "C")
    assert progress.read_incomplete(stream.store, SPEC.name).keys() == {"C"}
    load(stream)
    assert progress.read_incomplete(stream.store, SPEC.name) == {}
    assert_delivered(stream, ["C"])


def test_a_company_that_was_loaded_does_not_wait_because_more_was_published_meanwhile(stream, monkeypatch):
    monkeypatch.setattr(worker, "_RECOVERY_MESSAGES", 1)
    commit(stream, A="1")
    resync.begin_anew(stream)
    commit(stream, A="2")
    deliver_all(stream)
    assert parked(stream)["A"].kind == "gap"
    backfill(stream, "A", rebuild=False, go_on=lambda: True, tell=lambda *_: None)
    recover, more = worker.Worker.recover, iter(range(3, 9))

    def behind(self: worker.Worker, state: parking.Parked, applied_before: int) -> Outcome:
        for key in islice(more, 2):
            commit(stream, A=str(key))
        return recover(self, state, applied_before)

    monkeypatch.setattr(worker.Worker, "recover", behind)
    deliver(stream)
    assert "A" not in parked(stream)
    assert_delivered(stream, ["A"])
