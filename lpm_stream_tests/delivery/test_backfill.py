"""The handover: a company loaded from the table while the stream runs."""

import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable

from lpm_stream.control import backfills, entries, leases, parking, progress, quarantine, tables
from lpm_stream.control.registry import database_urls, register
from lpm_stream.delivery import backfill as backfill_module
from lpm_stream.delivery import hold
from lpm_stream.delivery.backfill import Backfilled, backfill
from lpm_stream.delivery.database import Transaction, open_database
from lpm_stream.delivery.sqlite import SqliteTransaction
from lpm_stream.errors import LeaseLostError, LpmStreamError, QuarantineFullError, TargetFaultError
from lpm_stream.settings import Settings
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.delivery.databases import watermark
from lpm_stream_tests.example import SPEC, append, assert_delivered, deliver, orders, publish, stored

SPAWN = multiprocessing.get_context("spawn")


def go_on() -> bool:
    return True


def load(
    stream: Stream, company: str = "A", *, rebuild: bool = False, meanwhile: Callable[[], bool] = go_on
) -> Backfilled:
    return backfill(stream, company, rebuild=rebuild, go_on=meanwhile, tell=lambda _rows, _total: None)


def path_of(stream: Stream, company: str) -> Path:
    return Path(str(sa.make_url(database_urls(stream.store, stream.settings)[company]).database))


def hold_of(stream: Stream, company: str) -> int:
    url = database_urls(stream.store, stream.settings)[company]
    with closing(open_database(SPEC, company, url)) as database:
        return watermark(database).hold


def keys(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def tamper(stream: Stream, *statements: str) -> None:
    with closing(sqlite3.connect(path_of(stream, "A"))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def commit(stream: Stream, rows: pl.DataFrame) -> None:
    append(stream.table, rows)
    publish(stream)


def try_parked_again(stream: Stream) -> None:
    with stream.store.write() as connection:
        connection.execute(tables.parked.update().values(next_try_at=datetime(2026, 1, 1, tzinfo=UTC)))
    deliver(stream)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(backfill_module, "_BATCH_ROWS", 4)


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_company_that_registers_late_gets_its_history_and_then_the_stream(stream, rebuild):
    commit(stream, orders(keys(50), "C"))
    register(stream.store, "C")
    assert progress.read_incomplete(stream.store, SPEC.name).keys() == {"C"}
    assert load(stream, "C", rebuild=rebuild) == Backfilled("C", 1, 50, 0, rebuild)
    assert_delivered(stream, ["C"])
    assert progress.read_incomplete(stream.store, SPEC.name) == {}
    DeltaTable(stream.table).delete("id = '7'")
    commit(stream, orders(["50"], "C"))
    deliver(stream)
    assert_delivered(stream, ["C"])
    found = backfills.read(stream.store, SPEC.name)["C"]
    assert (found.rows, found.total_rows, found.outcome, found.loaded_version) == (50, 50, "loaded", 1)


@pytest.mark.parametrize("rebuild", [False, True])
def test_what_was_tampered_with_is_mended_and_swept(stream, rebuild):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    tamper(
        stream,
        "UPDATE orders SET amount = 99 WHERE id = '1'",
        "DELETE FROM orders WHERE id = '2'",
        "UPDATE orders SET id = 'ghost' WHERE id = '3'",
    )
    append(stream.table, orders(["9"], "A"))  # not yet published: the backfill has it all the same
    load(stream, rebuild=rebuild)
    assert_delivered(stream, ["A"])
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ["A"])
    assert parking.read_parked(stream.store, SPEC.name) == {}


@pytest.mark.parametrize("rebuild", [False, True])
def test_while_it_loads_the_company_is_held_and_the_others_are_not(stream, rebuild, small_batches):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    seen: list[parking.Parked] = []

    def meanwhile() -> bool:
        if not seen:
            DeltaTable(stream.table).delete("id = '3'")
            commit(stream, orders(["x"], "A"))
            commit(stream, orders(["y"], "B"))
            deliver(stream)
            assert_delivered(stream, ["B"])
            seen.append(parking.read_parked(stream.store, SPEC.name)["A"])
        assert stored(stream, "A").keys() == set(keys(9))
        return True

    load(stream, rebuild=rebuild, meanwhile=meanwhile)
    assert (seen[0].kind, seen[0].reason) == ("held", "held while the company is loaded from the table")
    assert hold_of(stream, "A") == 0
    assert "3" in stored(stream, "A")
    try_parked_again(stream)
    assert parking.read_parked(stream.store, SPEC.name) == {}
    assert_delivered(stream, ["A", "B"])


@pytest.mark.parametrize("rebuild", [False, True])
def test_one_that_is_stopped_releases_the_stream_and_can_be_run_again(stream, rebuild, small_batches):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    commit(stream, orders(["9"], "A"))
    DeltaTable(stream.table).delete("id = '0'")
    answers = iter([True, False])
    with pytest.raises(LpmStreamError, match="was stopped; run it again"):
        load(stream, rebuild=rebuild, meanwhile=lambda: next(answers))
    assert hold_of(stream, "A") == 0
    assert "was stopped" in backfills.read(stream.store, SPEC.name)["A"].outcome
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ["A"])
    load(stream, rebuild=rebuild)
    assert_delivered(stream, ["A"])


def backfill_and_die(home: Path) -> None:
    backfill_module._BATCH_ROWS = 4
    answers = iter([True, True])
    with open_stream(Settings.load(home), SPEC) as stream:
        load(stream, meanwhile=lambda: next(answers, None) or os._exit(9))


def test_one_that_was_killed_does_not_leave_the_company_held(stream):
    commit(stream, orders(keys(20), "A"))
    deliver(stream)
    DeltaTable(stream.table).delete("id = '0'")
    victim = SPAWN.Process(target=backfill_and_die, args=(stream.settings.home,))
    victim.start()
    victim.join()
    assert victim.exitcode == 9
    assert hold_of(stream, "A") > 0
    commit(stream, orders(["x"], "A"))
    deliver(stream)
    try_parked_again(stream)
    assert hold_of(stream, "A") == 0
    assert_delivered(stream, ["A"])
    load(stream)
    assert_delivered(stream, ["A"])


def test_one_whose_hold_was_removed_writes_nothing_more(stream, small_batches):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    tamper(stream, "UPDATE orders SET amount = 77")

    def lose_it() -> bool:
        tamper(stream, "UPDATE _lpm_watermark SET hold = 0")
        return True

    with pytest.raises(LeaseLostError, match="does not hold the stream any more"):
        load(stream, meanwhile=lose_it)
    assert {row["amount"] for row in stored(stream, "A").values()} == {77}


def test_two_of_the_same_company_do_not_meet(stream, monkeypatch):
    monkeypatch.setattr(hold, "_PATIENCE_SECONDS", 0.3)
    commit(stream, orders(keys(3), "A"))

    def another() -> bool:
        with pytest.raises(LpmStreamError, match=r"'A' is being loaded by backfill-.* already"):
            load(stream)
        load(stream, "B")
        return True

    load(stream, meanwhile=another)
    name = leases.lease_name("backfill", SPEC.name, "A")
    assert name not in leases.holders(stream.store)


def test_rows_that_break_the_contract_go_to_quarantine_and_old_ones_leave_it(stream):
    commit(stream, orders(["1", "2"], "A", note="n" * 2_000))
    commit(stream, orders(["3"], "A"))
    DeltaTable(stream.table).update(updates={"note": "'short'"}, predicate="id = '1'")
    publish(stream)
    deliver(stream)
    before = {entry.id for entry in quarantine.entries(stream.store, SPEC.name, "A")}
    assert len(before) == 2
    assert load(stream).refused == 1
    [entry] = quarantine.entries(stream.store, SPEC.name, "A")
    assert entry.id not in before
    assert '"id": "2"' in entry.row.payload
    assert stored(stream, "A").keys() == {"1", "3"}


@pytest.mark.parametrize("published", [True, False])
def test_a_row_that_breaks_the_contract_at_the_version_loaded_is_in_quarantine_once(stream, published):
    commit(stream, orders(["1"], "A"))
    deliver(stream)
    DeltaTable(stream.table).update(updates={"note": f"'{'n' * 2_000}'"}, predicate="id = '1'")
    if published:
        publish(stream)
        deliver(stream)
        assert stored(stream, "A").keys() == {"1"}
    load(stream)
    publish(stream)
    assert quarantine.counts(stream.store, SPEC.name) == {"A": 1}
    assert stored(stream, "A") == {}
    DeltaTable(stream.table).update(updates={"note": "'short'"}, predicate="id = '1'")
    publish(stream)
    deliver(stream)
    assert_delivered(stream, ["A"])


def test_a_row_that_the_table_refuses_at_the_version_loaded_is_in_quarantine_once(stream):
    commit(stream, orders(["1"], "A"))
    deliver(stream)
    tamper(
        stream,
        "CREATE TRIGGER picky BEFORE INSERT ON orders WHEN new.id = '5' "
        "BEGIN SELECT RAISE(ABORT, 'not here'); END",
    )
    commit(stream, orders(["5"], "A"))
    deliver(stream)
    load(stream)
    assert quarantine.counts(stream.store, SPEC.name) == {"A": 1}
    tamper(stream, "DROP TRIGGER picky")
    load(stream)
    assert quarantine.counts(stream.store, SPEC.name) == {}
    assert_delivered(stream, ["A"])


def test_rows_that_the_table_refuses_go_to_quarantine(stream):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    tamper(
        stream,
        "DELETE FROM orders",
        "CREATE TRIGGER picky BEFORE INSERT ON orders WHEN new.id = '5' "
        "BEGIN SELECT RAISE(ABORT, 'not here'); END",
    )
    assert load(stream).refused == 1
    assert stored(stream, "A").keys() == set(keys(9)) - {"5"}
    assert ["not here" in one.row.reason for one in quarantine.entries(stream.store, SPEC.name)] == [True]


def test_too_many_broken_rows_stop_it(stream, settings):
    commit(stream, orders(keys(9), "A", note="n" * 2_000))
    strict = SPEC.model_copy(update={"quarantine_rows": 5})
    with open_stream(settings, strict) as narrow, pytest.raises(QuarantineFullError, match="9 rows in quarantine"):
        load(narrow)
    assert hold_of(stream, "A") == 0


def test_a_table_of_other_column_types_is_built_anew(stream):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    tamper(stream, "ALTER TABLE orders DROP COLUMN amount", "ALTER TABLE orders ADD COLUMN amount TEXT")
    with pytest.raises(TargetFaultError, match=r"column amount is TEXT, the contract says int64.*--replace"):
        load(stream)
    load(stream, rebuild=True)
    assert_delivered(stream, ["A"])
    commit(stream, orders(["9"], "A"))
    deliver(stream)
    assert_delivered(stream, ["A"])


def test_a_table_of_another_key_is_built_anew(stream):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    columns = tuple(c.model_copy(update={"nullable": c.nullable and c.name != "amount"}) for c in SPEC.columns)
    changed = replace(stream, spec=SPEC.model_copy(update={"primary_key": ("id", "amount"), "columns": columns}))
    commit(changed, orders(["1"], "A", amount=7))
    deliver(changed)
    reason = parking.read_parked(stream.store, SPEC.name)["A"].reason
    assert "its key is id, the contract says id, amount; build it anew with lpm-stream backfill" in reason
    load(changed, rebuild=True)
    try_parked_again(changed)
    assert parking.read_parked(stream.store, SPEC.name) == {}
    with closing(sqlite3.connect(path_of(stream, "A"))) as connection:
        found = connection.execute("SELECT amount FROM orders WHERE id = '1' ORDER BY 1").fetchall()
    assert found == [(1,), (7,)]


def test_one_that_fails_leaves_no_replacement_behind(stream):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    tamper(stream, "ALTER TABLE orders ADD COLUMN remark TEXT", "CREATE INDEX mine ON orders (remark)")
    with pytest.raises(TargetFaultError, match="cannot have its index mine"):
        load(stream, rebuild=True)
    with closing(sqlite3.connect(path_of(stream, "A"))) as connection:
        tables_left = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
    assert tables_left == {"orders", "_lpm_watermark", "_lpm_entitlement"}
    assert hold_of(stream, "A") == 0
    assert stored(stream, "A").keys() == set(keys(9))


def test_a_lost_table_is_built_anew(stream):
    commit(stream, orders(keys(9), "A"))
    deliver(stream)
    tamper(stream, "DROP TABLE orders")
    commit(stream, orders(["9"], "A"))
    deliver(stream)
    assert "lost its table orders" in parking.read_parked(stream.store, SPEC.name)["A"].reason
    load(stream, rebuild=True)
    try_parked_again(stream)
    assert_delivered(stream, ["A"])


def test_an_unknown_company_is_an_error(stream):
    with pytest.raises(LpmStreamError, match="'Z' is not registered"):
        load(stream, "Z")


@pytest.mark.parametrize("company", ["it's", "a/b", "..", "%s", ":x", "x" * 300, 'say "hi"', "\U0001f691"])
def test_odd_ids_are_data(stream, company):
    register(stream.store, company)
    commit(stream, pl.concat([orders(["1", "2"], company), orders(["3"], "A")]))
    assert load(stream, company).rows == 2
    assert_delivered(stream, [company])


def test_a_database_lost_after_its_backfill_is_not_taken_for_a_new_one(stream):
    commit(stream, orders(["h1", "h2"], "C"))
    register(stream.store, "C")
    load(stream, "C")
    commit(stream, orders(["s1"], "C"))
    deliver(stream)
    path_of(stream, "C").unlink()
    commit(stream, orders(["s2"], "C"))
    deliver(stream)
    for _ in range(3):
        try_parked_again(stream)
    assert parking.read_parked(stream.store, SPEC.name)["C"].kind == "gap"
    load(stream, "C")
    try_parked_again(stream)
    assert parking.read_parked(stream.store, SPEC.name) == {}
    assert_delivered(stream, ["C"])


def test_a_hold_of_a_dead_backfill_does_not_outlive_the_next(stream):
    commit(stream, orders(["1"], "A"))
    deliver(stream)
    tamper(stream, "UPDATE _lpm_watermark SET hold = 12345")
    load(stream)
    assert hold_of(stream, "A") == 0


def test_a_lost_watermark_is_found_out(stream):
    commit(stream, orders(["1"], "A"))
    commit(stream, orders(["2"], "A"))
    deliver(stream)
    tamper(stream, "DELETE FROM _lpm_watermark")
    commit(stream, orders(["3"], "A"))
    deliver(stream)
    for _ in range(2):
        try_parked_again(stream)
    assert_delivered(stream, ["A"])


def test_reading_may_take_longer_than_the_lease(stream, monkeypatch):
    monkeypatch.setattr(leases, "TTL", timedelta(seconds=1.5))
    monkeypatch.setattr(leases, "_has_died", lambda _holder: False)
    commit(stream, orders(["1"], "A"))
    deliver(stream)
    original = Snapshot.count

    def slow(self: Snapshot, company: str) -> int:
        commit(stream, orders(["2"], "A"))
        for _ in range(4):
            time.sleep(0.75)
            deliver(stream)
        return original(self, company)

    monkeypatch.setattr(Snapshot, "count", slow)
    load(stream)
    try_parked_again(stream)
    assert_delivered(stream, ["A"])


def test_many_old_broken_rows_do_not_keep_a_company_from_being_loaded(stream, settings):
    commit(stream, orders(keys(9), "A", note="n" * 2_000))
    commit(stream, orders(["x"], "A"))
    strict = SPEC.model_copy(update={"quarantine_rows_per_minute": 5})
    with open_stream(settings, strict) as narrow:
        assert load(narrow).refused == 9
    assert stored(stream, "A").keys() == {"x"}


def remove(stream: Stream) -> None:
    entries.set_state(stream.store, "A", "offboarding")


def revoke(stream: Stream) -> None:
    before = entries.read(stream.store, "A").company
    with stream.store.write() as connection:
        entries.change(connection, before, before.model_copy(update={"groups": ("base",)}))


def move(stream: Stream) -> None:
    before = entries.read(stream.store, "A").company
    with stream.store.write() as connection:
        entries.change(connection, before, before.model_copy(update={"database": "sqlite:///elsewhere.db"}))


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize(
    ("change", "said"), [(remove, "not registered"), (revoke, "other columns"), (move, "another database")]
)
def test_nothing_more_is_loaded_once_the_company_is_served_otherwise(stream, rebuild, change, said, small_batches):
    commit(stream, orders(keys(2), "A"))
    deliver(stream)
    commit(stream, orders(keys(9), "A"))
    asked: list[bool] = []

    def meanwhile() -> bool:
        if not asked:
            change(stream)
        asked.append(True)
        return True

    with pytest.raises(LpmStreamError, match=said):
        load(stream, rebuild=rebuild, meanwhile=meanwhile)
    assert len(asked) == 1
    with closing(sqlite3.connect(stream.settings.home / "companies" / "A.db")) as connection:
        assert connection.execute("SELECT count(*), max(_commit_version) FROM orders").fetchone() == (2, 1)
    found = backfills.read(stream.store, SPEC.name)["A"]
    assert (found.loaded_version, said in found.outcome) == (-1, True)


def test_a_load_goes_on_when_another_company_is_removed_and_this_one_is_paused(stream, small_batches):
    commit(stream, orders(keys(9), "A"))

    def meanwhile() -> bool:
        entries.set_state(stream.store, "A", "paused")
        entries.set_state(stream.store, "B", "offboarding")
        return True

    assert load(stream, meanwhile=meanwhile).rows == 9


@pytest.mark.parametrize(("failures", "loaded"), [(3, True), (4, False)])
def test_what_passes_by_itself_is_not_the_end_of_it(stream, monkeypatch, failures, loaded):
    monkeypatch.setattr(hold, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(backfill_module, "_BATCH_ROWS", 2)
    append(stream.table, orders([str(number) for number in range(5)], "A"))
    merge, tries = SqliteTransaction.merge, 0

    def deadlocked(self: SqliteTransaction, rows: pl.DataFrame) -> None:
        nonlocal tries
        tries += 1
        merge(self, rows)
        if 2 <= tries < 2 + failures:
            raise TargetFaultError("error 1205: deadlock")

    monkeypatch.setattr(SqliteTransaction, "merge", deadlocked)
    with nullcontext() if loaded else pytest.raises(TargetFaultError, match="1205"):
        load(stream)
    assert len(stored(stream, "A")) == (5 if loaded else 2)


@pytest.mark.parametrize("rebuild", [True, False])
@pytest.mark.parametrize("arrived", [True, False])
def test_nor_is_it_where_all_is_put_into_place(stream, monkeypatch, rebuild, arrived):
    monkeypatch.setattr(hold, "_PAUSES", (0.0, 0.0, 0.0))
    append(stream.table, orders(keys(5), "A"))
    work = hold.Loading.writing
    failed: list[bool] = []

    @contextmanager
    def cut(self: hold.Loading) -> Iterator[Transaction]:
        with work(self) as transaction:
            yield transaction
            if is_last := transaction.watermark().hold == 0 and not failed:
                failed.append(is_last)
                if not arrived:
                    raise TargetFaultError("error 40613: the database moves")
        if is_last:
            raise TargetFaultError("the connection is gone")

    monkeypatch.setattr(hold.Loading, "writing", cut)
    assert load(stream, rebuild=rebuild).rows == 5
    assert failed
    assert stored(stream, "A").keys() == set(keys(5))
    assert backfills.read(stream.store, SPEC.name)["A"].outcome == "loaded"
