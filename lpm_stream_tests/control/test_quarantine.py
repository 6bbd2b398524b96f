import json
import sqlite3
from dataclasses import replace
from datetime import UTC, date, datetime

import sqlalchemy as sa

from lpm_stream.control import quarantine
from lpm_stream.control.quarantine import Refused, payload_of
from lpm_stream.control.tables import quarantine as table

ROW = Refused("A", 7, "publish", "note is null", '{"id":"1"}')


def add(store, *refused: Refused) -> int:
    with store.write() as connection:
        return quarantine.add(connection, "f", refused)


def test_the_same_row_of_the_same_commit_waits_once(store):
    assert add(store, ROW, ROW) == 1
    assert add(store, replace(ROW, reason="another reason")) == 0
    others = [
        replace(ROW, version=8),
        replace(ROW, company="B"),
        replace(ROW, stage="deliver"),
        replace(ROW, payload='{"id":"2"}'),
    ]
    assert add(store, ROW, *others) == 4
    assert quarantine.counts(store, "f") == {"A": 4, "B": 1}
    assert quarantine.counts(store, "other") == {}


def test_nothing_to_add(store):
    assert add(store) == 0


def test_a_long_reason_is_cut(store):
    add(store, replace(ROW, reason="r" * 5_000))
    with store.read() as connection:
        assert connection.execute(sa.select(table.c.reason)).scalar() == "r" * 2_000


def test_a_company_that_cannot_be_one_is_kept_as_far_as_it_can(store):
    """Its rows wait in quarantine because of that very id."""
    assert add(store, replace(ROW, company="x" * 500), replace(ROW, company="a\0b")) == 2
    assert quarantine.counts(store, "f") == {"x" * 450: 1, "a\ufffdb": 1}


def test_more_rows_than_a_statement_has_parameters(store):
    """How many a statement takes depends on how SQLite was built; 999 is the least."""

    def limit(dbapi_connection: sqlite3.Connection, _record: object) -> None:
        dbapi_connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)

    if store._engine.dialect.name == "sqlite":
        store._engine.dispose()
        sa.event.listen(store._engine, "connect", limit)
    rows = [replace(ROW, payload=str(number)) for number in range(2_500)]
    assert add(store, *rows[:1_500]) == 1_500
    assert add(store, *rows) == 1_000
    assert quarantine.counts(store, "f") == {"A": 2_500}


def test_a_payload_is_the_row_as_json():
    row: dict[str, object] = {
        "id": 'say "hi"\n🚑',
        "null": None,
        "at": datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        "due": date(9999, 12, 31),
        "least": -(2**63),
        "flag": True,
    }
    found = json.loads(payload_of(row))
    assert found["id"] == row["id"]
    assert (found["null"], found["flag"], found["least"]) == (None, True, -(2**63))
    assert found["at"].startswith("0001-01-01 00:00:00.000001")
    assert found["due"] == "9999-12-31"
