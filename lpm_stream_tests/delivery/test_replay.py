"""Rows that come out of quarantine."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable

from lpm_stream.alerts.look import look
from lpm_stream.control import parking, progress, quarantine
from lpm_stream.control.registry import database_urls
from lpm_stream.delivery import hold, loss
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.hold import loading
from lpm_stream.delivery.replay import Replayed, replay
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.settings import Settings
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.delivery.test_drain import try_again_now
from lpm_stream_tests.example import SPEC, append, assert_delivered, deliver, orders, publish, stored

LONG = "n" * 2_000


def commit(stream: Stream, *keys: str, company: str = "A", **columns: Any) -> None:
    append(stream.table, orders(keys, company, **columns))
    publish(stream)
    deliver(stream)


def update(stream: Stream, key: str, **values: str) -> None:
    DeltaTable(stream.table).update(updates=values, predicate=f"id = '{key}'")
    publish(stream)


def held(stream: Stream, company: str = "A") -> list[quarantine.Entry]:
    return quarantine.entries(stream.store, SPEC.name, company)


def in_database(stream: Stream, statement: str) -> None:
    path = Path(str(sa.make_url(database_urls(stream.store, stream.settings)["A"]).database))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def picky(stream: Stream) -> None:
    commit(stream, "0")
    in_database(
        stream,
        "CREATE TRIGGER picky BEFORE INSERT ON orders WHEN new.amount = 13 BEGIN SELECT RAISE(ABORT, 'no'); END",
    )


def wider() -> FeedSpec:
    columns = [
        column.model_copy(update={"max_length": 5_000}) if column.name == "note" else column
        for column in SPEC.columns
    ]
    return SPEC.model_copy(update={"columns": tuple(columns)})


def test_what_the_database_takes_now_is_delivered(stream):
    picky(stream)
    commit(stream, "1", "2", amount=13)
    commit(stream, "3")
    assert len(held(stream)) == 2
    assert replay(stream, "A") == Replayed("A", 0, 0, 2)
    in_database(stream, "DROP TRIGGER picky")
    assert replay(stream, "A", [held(stream)[0].id]) == Replayed("A", 1, 0, 0)
    assert replay(stream, "A") == Replayed("A", 1, 0, 0)
    assert replay(stream, "A") == Replayed("A", 0, 0, 0)
    assert_delivered(stream, ["A"])


def test_what_the_contract_allows_now_is_delivered(stream, settings: Settings):
    commit(stream, "1", "2", note=LONG)
    assert replay(stream, "A") == Replayed("A", 0, 0, 2)
    with open_stream(settings, wider()) as again:
        assert replay(again, "A") == Replayed("A", 2, 0, 0)
        assert_delivered(again, ["A"])


def test_a_row_superseded_meanwhile_does_not_come_back(stream):
    commit(stream, "corrected", "deleted", "moved", "broken", note=LONG)
    update(stream, "corrected", note="'short'", amount="2")
    DeltaTable(stream.table).delete("id = 'deleted'")
    publish(stream)
    update(stream, "moved", note="'short'", customer="'B'")
    deliver(stream)
    assert replay(stream, "A") == Replayed("A", 1, 2, 1)
    assert stored(stream, "A").keys() == {"corrected"}
    assert stored(stream, "A")["corrected"]["amount"] == 2
    assert_delivered(stream, ["B"])


def test_what_is_replayed_before_the_stream_gets_there_stays(stream):
    picky(stream)
    commit(stream, "1", amount=13)
    in_database(stream, "DROP TRIGGER picky")
    update(stream, "1", amount="14")
    update(stream, "1", amount="15")
    assert replay(stream, "A") == Replayed("A", 1, 0, 0)
    assert stored(stream, "A")["1"]["amount"] == 15
    deliver(stream)
    assert_delivered(stream, ["A"])
    update(stream, "1", amount="16")
    deliver(stream)
    assert_delivered(stream, ["A"])


def test_a_row_without_a_key_stays(stream):
    DeltaTable(stream.table)
    append(stream.table, orders(["1"], "A").with_columns(id=None).cast({"id": str}))
    publish(stream)
    assert replay(stream, "A") == Replayed("A", 0, 0, 1)


@pytest.fixture
def strict(settings: Settings, stream: Stream):
    spec = SPEC.model_copy(update={"quarantine_rows_per_minute": 3, "quarantine_rows": 5})
    with open_stream(settings, spec) as opened:
        yield opened


def test_a_quarantine_that_is_full_grows_no_further(strict):
    append(strict.table, orders([str(number) for number in range(10, 20)], ["A", None] * 5, note=LONG))
    publish(strict)
    before = [*held(strict), *held(strict, "")]
    assert len(before) == 8  # of each three, and one for what is left out
    newest = -1
    for round_ in range(3):
        append(strict.table, orders([f"{round_}{number}" for number in range(20, 28)], ["A", None] * 4, note=LONG))
        publish(strict)
        newest = DeltaTable(strict.table).version()
    assert [entry.id for entry in (*held(strict), *held(strict, ""))] == [entry.id for entry in before]
    assert quarantine.withheld_version(strict.store, SPEC.name, "A", after=newest - 1) == newest


def test_broken_rows_of_companies_that_nobody_has_registered_are_counted_and_not_kept(strict):
    append(strict.table, orders(["1", "2", "3"], ["stranger", "stranger", "A"], note=LONG))
    publish(strict)
    assert [len(held(strict, company)) for company in ("A", "stranger")] == [1, 0]
    assert {one.company: one.changes for one in progress.read_unknown(strict.store, SPEC.name)} == {"stranger": 2}


def test_a_commit_with_too_many_broken_rows_sets_its_company_aside(strict):
    commit(strict, "1")
    append(strict.table, orders([str(number) for number in range(10, 20)], ["A", "B"] * 5, note=LONG))
    append(strict.table, orders(["2"], "C"))
    append(strict.table, orders(["3", "4"], ["A", "B"]))
    publish(strict)
    deliver(strict)
    assert {company: one.kind for company, one in parking.read_parked(strict.store, SPEC.name).items()} == {
        "A": "lacking",
        "B": "lacking",
    }
    assert len(held(strict)) == 4  # the last stands for the whole version
    assert stored(strict, "A").keys() == {"1"}
    for _ in range(2):
        try_again_now(strict)
    state = parking.read_parked(strict.store, SPEC.name)["A"]
    assert (state.kind, state.waiting) == ("gap", 1)
    assert "version 2 would have more rows in quarantine than the feed allows" in state.reason


def test_what_was_withheld_comes_with_a_resync_once_it_is_mended(strict):
    commit(strict, "1")
    append(strict.table, orders([str(number) for number in range(10, 20)], "A", note=LONG))
    publish(strict)
    DeltaTable(strict.table).update(updates={"note": "'short'"})
    publish(strict)
    for _ in range(3):
        try_again_now(strict)
    assert "would have more rows" in parking.read_parked(strict.store, SPEC.name)["A"].reason
    backfill(strict, "A", rebuild=False, go_on=lambda: True, tell=lambda *_: None)
    commit(strict, "3")
    assert parking.read_parked(strict.store, SPEC.name) == {}
    assert held(strict) == []
    assert_delivered(strict, ["A"])


def test_what_was_withheld_is_told_of_as_such_where_nothing_follows(strict, monkeypatch):
    monkeypatch.setattr(loss, "_PAUSE_SECONDS", 0.0)
    commit(strict, "1")
    append(strict.table, orders([str(number) for number in range(10, 20)], "A", note=LONG))
    publish(strict)
    deliver(strict)
    state = parking.read_parked(strict.store, SPEC.name)["A"]
    assert state.kind == "gap"
    assert "version 2 would have more rows in quarantine" in state.reason
    causes = [cause for cause in look(strict).causes if cause.company == "A"]
    assert [cause.kind for cause in causes] == ["quarantine_full"]


def test_a_full_quarantine_sets_the_company_aside(strict):
    picky(strict)
    commit(strict, "1", "2", "3", amount=13)
    assert len(held(strict)) == 3
    commit(strict, "4", amount=13)
    assert "4 of them new within a minute" in parking.read_parked(strict.store, SPEC.name)["A"].reason
    assert len(held(strict)) == 3
    commit(strict, "5", company="B")
    assert_delivered(strict, ["B"])


def test_rows_of_nobody_are_told_of_in_one_line_where_there_are_too_many(strict):
    append(strict.table, orders([str(number) for number in range(9)], [None] * 9))
    publish(strict)
    reasons = [entry.row.reason for entry in held(strict, "")]
    assert len(reasons) == 4
    assert sum(one.startswith("6 more rows of this version belong to nobody") for one in reasons) == 1


def test_a_refused_delete_is_made_up_for(stream):
    commit(stream, "1", "2")
    in_database(stream, "CREATE TRIGGER picky BEFORE DELETE ON orders BEGIN SELECT RAISE(ABORT, 'no'); END")
    DeltaTable(stream.table).delete("id = '1'")
    publish(stream)
    deliver(stream)
    assert replay(stream, "A") == Replayed("A", 0, 0, 1)
    in_database(stream, "DROP TRIGGER picky")
    assert replay(stream, "A") == Replayed("A", 0, 1, 0)
    assert_delivered(stream, ["A"])


def test_a_hold_that_a_dead_backfill_has_left_does_not_keep_it_waiting(stream):
    commit(stream, "1", note=LONG)
    commit(stream, "2")
    update(stream, "1", note="'short'")
    in_database(stream, "UPDATE _lpm_watermark SET hold = 12345")
    assert replay(stream, "A") == Replayed("A", 1, 0, 0)


def test_a_table_that_was_set_back_is_told(stream, tmp_path):
    commit(stream, "1", note=LONG)
    shutil.copytree(stream.table, tmp_path / "copy")
    commit(stream, "2")
    shutil.rmtree(stream.table)
    shutil.copytree(tmp_path / "copy", stream.table)
    with pytest.raises(
        LpmStreamError, match=r"is at version 1, but company 'A' has version 2: .* set back; .*resync"
    ):
        replay(stream, "A")
    assert len(held(stream)) == 1


def test_the_stream_waits_for_it_and_goes_on_behind_it(stream, monkeypatch):
    commit(stream, "1", note=LONG)
    update(stream, "1", note="'short'")
    rows = Snapshot.rows

    def meanwhile(self: Snapshot, company: str, batch_rows: int, keys: pl.DataFrame) -> Iterator[pl.DataFrame]:
        commit(stream, "2")
        assert parking.read_parked(stream.store, SPEC.name)["A"].kind == "held"
        return rows(self, company, batch_rows, keys)

    monkeypatch.setattr(Snapshot, "rows", meanwhile)
    assert replay(stream, "A") == Replayed("A", 1, 0, 0)
    try_again_now(stream)
    assert parking.read_parked(stream.store, SPEC.name) == {}
    assert_delivered(stream, ["A"])


def test_it_is_refused_while_a_backfill_goes_on(stream, monkeypatch):
    monkeypatch.setattr(hold, "_PATIENCE_SECONDS", 0.3)
    commit(stream, "1", note=LONG)
    with loading(stream, "A", "backfill"), pytest.raises(LpmStreamError, match="is being loaded by"):
        replay(stream, "A")
    assert len(held(stream)) == 1
