"""What becomes of a replay, and of its company, when something else happens meanwhile."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable, write_deltalake

from lpm_stream.alerts.look import look
from lpm_stream.change_company import drop_data
from lpm_stream.control import backfills, entries, parking, quarantine, tables
from lpm_stream.control.registry import database_urls, register
from lpm_stream.delivery import hold
from lpm_stream.delivery import replay as replay_module
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.hold import loading
from lpm_stream.delivery.replay import Replayed, replay, replay_all
from lpm_stream.errors import LeaseLostError, LpmStreamError
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.settings import Settings
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.status import Status, read_status
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.delivery.test_drain import try_again_now
from lpm_stream_tests.delivery.test_replay import LONG, commit, held, in_database, picky, update
from lpm_stream_tests.example import SPEC, START, deliver, publish, stored


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "_PATIENCE_SECONDS", 0.3)


@pytest.fixture
def mended(stream: Stream) -> Stream:
    """A stream with a row of A in quarantine that would be delivered now."""
    commit(stream, "1", note=LONG)
    commit(stream, "2")
    update(stream, "1", note="'short'")
    return stream


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Has something happen once, while the table is read."""
    rows = Snapshot.rows

    def read(self: Snapshot, *asked: Any) -> Iterator[pl.DataFrame]:
        monkeypatch.setattr(Snapshot, "rows", rows)
        happens()
        return rows(self, *asked)

    monkeypatch.setattr(Snapshot, "rows", read)


def load(stream: Stream) -> None:
    backfill(stream, "A", rebuild=False, go_on=lambda: True, tell=lambda *_: None)


def test_nothing_is_delivered_to_a_company_that_was_removed(mended, monkeypatch):
    path = database_of(mended, "A")
    meanwhile(monkeypatch, lambda: entries.set_state(mended.store, "A", "offboarding"))
    with pytest.raises(LpmStreamError, match="'A' is not registered"):
        replay(mended, "A")
    assert len(held(mended)) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM orders").fetchall() == [("2",)]


def database_of(stream: Stream, company: str) -> Path:
    return Path(str(sa.make_url(database_urls(stream.store, stream.settings)[company]).database))


def test_dropped_data_does_not_come_back(mended, monkeypatch):
    opened = Stream.open_database

    def removed(self, served):
        monkeypatch.setattr(Stream, "open_database", opened)
        entries.set_state(mended.store, "A", "offboarding")
        drop_data([mended], "A")
        return opened(self, served)

    path = database_of(mended, "A")
    monkeypatch.setattr(Stream, "open_database", removed)
    with pytest.raises(LpmStreamError, match="'A' is not registered"):
        replay(mended, "A")
    assert b"short" not in path.read_bytes()


def test_a_database_that_the_company_left_is_not_written(mended, monkeypatch, tmp_path):
    meanwhile(monkeypatch, lambda: move(mended, "A", f"sqlite:///{tmp_path}/other.db"))
    with pytest.raises(LpmStreamError, match="another database or other columns meanwhile; run the replay"):
        replay(mended, "A")
    assert len(held(mended)) == 1


def move(stream: Stream, company: str, url: str) -> None:
    moved = tables.companies.update().where(tables.companies.c.company == company)
    with stream.store.write() as connection:
        connection.execute(moved.values(database_url=url, changed_at=datetime.now(UTC)))


def test_what_is_refused_again_after_it_stays_in_quarantine(stream, monkeypatch):
    picky(stream)
    commit(stream, "1", amount=13)
    load(stream)  # refused at the same version as a later load will
    in_database(stream, "DROP TRIGGER picky")
    settle = replay_module._settle

    def later(*args):
        with pytest.raises(LpmStreamError, match="is being loaded"):
            load(stream)
        return settle(*args)

    monkeypatch.setattr(replay_module, "_settle", later)
    assert replay(stream, "A") == Replayed("A", 1, 0, 0)


def test_who_has_lost_the_lease_neither_writes_nor_settles(mended, monkeypatch):
    def lost() -> None:
        with mended.store.write() as connection:
            connection.execute(tables.leases.update().values(fence=tables.leases.c.fence + 1))

    meanwhile(monkeypatch, lost)
    with pytest.raises(LeaseLostError):
        replay(mended, "A")
    assert len(held(mended)) == 1


def test_a_hold_under_a_newer_lease_is_left_alone(mended):
    in_database(mended, f"UPDATE _lpm_watermark SET hold = {2**60}")
    with pytest.raises(LeaseLostError, match="has lost its lease to another"):
        replay(mended, "A")


def test_a_gap_stays_one(mended, monkeypatch):
    with mended.store.write() as connection:  # the hub has lost a message
        connection.execute(tables.published.update().where(tables.published.c.company == "A").values(version=9))
    deliver(mended)
    for _ in range(3):
        try_again_now(mended)
    before = parking.read_parked(mended.store, SPEC.name)["A"]
    assert before.kind == "gap"
    seen = []

    def tried() -> None:
        try_again_now(mended)
        seen.append(parking.read_parked(mended.store, SPEC.name)["A"])

    meanwhile(monkeypatch, tried)
    assert replay(mended, "A").applied == 1
    [during] = seen
    assert (during.kind, during.reason) == ("gap", before.reason)
    try_again_now(mended)
    assert parking.read_parked(mended.store, SPEC.name)["A"].kind == "gap"
    assert "gap" in [cause.kind for cause in look(mended).causes if cause.company == "A"]


def test_a_killed_backfill_does_not_show_while_rows_are_replayed(mended, monkeypatch):
    load(mended)
    commit(mended, "3", note=LONG)
    with mended.store.write() as connection:
        connection.execute(tables.backfills.update().values(finished_at=None))
    seen: list[Status] = []
    meanwhile(monkeypatch, lambda: seen.append(read_status(mended)))
    replay(mended, "A")
    assert [one.backfill for one in seen[0].companies if one.company == "A"] == [None]
    assert backfills.read(mended.store, SPEC.name)["A"].finished_at is None


def test_one_that_fails_does_not_keep_the_others_waiting(mended):
    commit(mended, "3", note=LONG, company="B")
    update(mended, "3", note="'short'")
    chosen = quarantine.entries(mended.store, SPEC.name)
    with loading(mended, "A", "backfill"):
        done = replay_all(mended, chosen, go_on=lambda: True)
    assert [(one.company, one.applied, one.refused, bool(one.problem)) for one in done] == [
        ("A", 0, 1, True),
        ("B", 1, 0, False),
    ]
    assert "A is being loaded by backfill-" in done[0].problem.replace("'", "").removeprefix("company ")


def test_told_to_stop_it_leaves_the_stream_free(mended):
    with pytest.raises(LpmStreamError, match="was stopped"):
        replay(mended, "A", go_on=lambda: False)
    assert len(held(mended)) == 1
    commit(mended, "4")
    assert "4" in stored(mended, "A")


def test_what_is_mended_comes_though_much_is_refused_still(stream):
    picky(stream)
    for part in range(3):
        commit(stream, *[f"refused {part} {number}" for number in range(9)], amount=13)
    commit(stream, *[f"mended {number}" for number in range(8)], note=LONG)
    DeltaTable(stream.table).update(updates={"note": "'short'"}, predicate="id LIKE 'mended%'")
    assert replay(stream, "A") == Replayed("A", 8, 0, 27)
    assert sum(key.startswith("mended") for key in stored(stream, "A")) == 8


@pytest.mark.parametrize(
    ("declared", "source", "keys"),
    [
        ({"type": "int32"}, pl.Int64(), [1, 3_000_000_000]),
        (
            {"type": "decimal", "precision": 5, "scale": 2},
            pl.Decimal(10, 2),
            [Decimal("1.50"), Decimal("12345678.25")],
        ),
        (
            {"type": "timestamp"},
            pl.Datetime("us"),
            [START.replace(tzinfo=None), START.replace(tzinfo=None, year=1999)],
        ),
    ],
    ids=["int", "decimal", "instant"],
)
def test_keys_are_of_the_type_that_the_table_has(settings: Settings, declared, source, keys):
    spec = keyed_by(declared)
    table = settings.table_location(spec.source_table)
    rows = pl.DataFrame(
        {"id": keys, "customer": "A", "ordered_at": START, "note": LONG},
        schema_overrides={"id": source, "ordered_at": pl.Datetime("us", "UTC")},
    )
    write_deltalake(table, rows.clear().to_arrow(), configuration={"delta.enableChangeDataFeed": "true"})
    with open_stream(settings, spec) as stream:
        register(stream.store, "A")
        write_deltalake(table, rows.to_arrow(), mode="append")
        publish(stream)
        deliver(stream)
        assert len(held(stream)) == 2
        DeltaTable(table).update(updates={"note": "'short'"})
        assert replay(stream, "A") == Replayed("A", 2, 0, 0)


def keyed_by(declared: dict[str, object]) -> FeedSpec:
    columns = [column for column in SPEC.columns if column.name in {"customer", "ordered_at", "note"}]
    key = Column.model_validate({"name": "id", "nullable": False, "description": "the key", **declared})
    return SPEC.model_copy(update={"columns": (key, *columns), "schema_policy": "evolve"})
