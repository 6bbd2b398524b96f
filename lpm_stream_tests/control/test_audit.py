"""Who did what when: written with what was done, in one chain, and not to be changed unnoticed."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import assume, given
from hypothesis import strategies as st

from lpm_stream.control import audit
from lpm_stream.control.actor import on_behalf_of, who
from lpm_stream.control.audit import Head, verify
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import companies
from lpm_stream.errors import LpmStreamError

ENTRIES = 6
COLUMNS = ["at", "who", "action", "company", "details", "hash"]


def record(store: ControlStore, action: str = "backfill", company: str | None = "A", **details: Any) -> None:
    with store.write() as connection:
        audit.record(connection, action, company, details)


def test_entries_are_numbered_chained_and_found(store):
    assert verify(store) == audit.Verified(Head(0, ""))
    before = datetime.now(UTC)
    record(store, "backfill", "it's; \0", version=3, rebuild=False, note=None)
    record(store, "resync", None, version=4)
    one, two = audit.entries(store)
    assert (one.number, one.action, one.company) == (1, "backfill", "it's; \ufffd")
    assert one.details == {"version": 3, "rebuild": False, "note": None}
    assert before <= one.at <= two.at <= datetime.now(UTC)
    assert one.who == who()
    assert verify(store) == audit.Verified(Head(2, two.hash))
    assert audit.entries(store, company="it's; \ufffd") == [one]
    assert audit.entries(store, since=two.at) == [two]
    assert audit.entries(store, since=two.at + timedelta(seconds=1)) == []


def test_the_entry_falls_with_the_action(store):
    def work() -> None:
        with store.write() as connection:
            connection.execute(companies.insert().values(company="A", registered_at=datetime.now(UTC)))
            audit.record(connection, "register", "A", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert audit.entries(store) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'nobody'",
        "UPDATE audit SET number = 9 WHERE number = 2",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit",
    ],
)
def test_the_database_refuses_to_change_an_entry(store, statement):
    for _ in range(2):
        record(store)
    before = audit.entries(store)
    with pytest.raises(LpmStreamError, match="append-only"), store.write() as connection:
        connection.execute(sa.text(statement))
    assert audit.entries(store) == before


def test_neither_sqlites_replace_nor_postgresqls_truncate_gets_around_that(store, url):
    record(store)
    before = audit.entries(store)
    statement = "TRUNCATE audit"
    if url.startswith("sqlite"):
        statement = "REPLACE INTO audit VALUES (1, '2026', 'nobody', 'nothing', NULL, '{}', '')"
    with pytest.raises(LpmStreamError, match="append-only"), store.write() as connection:
        connection.execute(sa.text(statement))
    assert audit.entries(store) == before


def test_writers_at_once_do_not_fork_the_chain(store, url):
    command = [sys.executable, "-m", "lpm_stream_tests.control.worker", "record", url]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    found = audit.entries(store)
    assert sorted({one.company for one in found if one.company}) == ["0", "1", "2"]
    assert verify(store) == audit.Verified(Head(60, found[-1].hash))


def test_what_is_cut_off_at_the_end_is_found_with_a_head_kept_elsewhere(tmp_path):
    file = _written(tmp_path)
    with closing(ControlStore(f"sqlite:///{file}")) as store:
        head = Head.parse(str(verify(store).head))
        assert verify(store, head).problem == ""
        record(store)
        assert verify(store, head).problem == ""
    _tamper(file, "DELETE FROM audit WHERE number > 4")
    with closing(ControlStore(f"sqlite:///{file}")) as store:
        assert verify(store).problem == ""
        assert verify(store, head).problem == "the chain ends at entry 4: entries up to 6 were cut off"
        for _ in range(3):
            record(store)
        assert "entry 6 is another" in verify(store, head).problem


@pytest.mark.parametrize("text", ["", "abc", "-1:x", "1.5:x"])
def test_a_head_that_is_none_is_an_error(text):
    with pytest.raises(LpmStreamError, match="NUMBER:HASH"):
        Head.parse(text)


def _written(directory: Path) -> Path:
    file = directory / "control.db"
    with closing(ControlStore(f"sqlite:///{file}")) as store:
        for number in range(ENTRIES):
            record(store, "backfill", f"C{number % 2}", version=number)
    return file


def _tamper(file: Path, statement: str, values: tuple[Any, ...] = ()) -> None:
    """What somebody can do who may do everything with the file."""
    with closing(sqlite3.connect(file)) as connection:
        for trigger in ("insert", "update", "delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS audit_{trigger}")
        connection.execute(statement, values)
        connection.commit()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory.mktemp("audit"))


def _found(pristine: Path, statement: str, values: tuple[Any, ...]) -> audit.Verified:
    copy = pristine.with_name("copy.db")
    shutil.copy(pristine, copy)
    _tamper(copy, statement, values)
    with closing(ControlStore(f"sqlite:///{copy}")) as store:
        return verify(store)


VALUES = st.text(max_size=5) | st.binary(max_size=5) | st.integers(-5, 5)
NUMBERS = st.integers(1, ENTRIES)


@given(NUMBERS, st.sampled_from(COLUMNS), VALUES)
def test_a_changed_value_is_found(pristine, number, column, value):
    assume(value not in {"C0", "C1"})
    found = _found(pristine, f"UPDATE audit SET {column} = ? WHERE number = ?", (value, number))
    assert found.head.number == number - 1
    assert f"entry {number} was changed" in found.problem


@given(st.integers(1, ENTRIES - 1))
def test_a_removed_entry_is_found(pristine, number):
    found = _found(pristine, "DELETE FROM audit WHERE number = ?", (number,))
    assert found.head.number == number - 1
    assert f"entry {number} is missing" in found.problem


@given(NUMBERS, NUMBERS)
def test_entries_in_another_order_are_found(pristine, one, other):
    swap = "UPDATE audit SET number = CASE number WHEN ?1 THEN -?2 ELSE -?1 END WHERE number IN (?1, ?2)"
    copy = pristine.with_name("swapped.db")
    shutil.copy(pristine, copy)
    _tamper(copy, swap, (one, other))
    _tamper(copy, "UPDATE audit SET number = abs(number)")
    with closing(ControlStore(f"sqlite:///{copy}")) as store:
        found = verify(store)
    assert found.head.number == (ENTRIES if one == other else min(one, other) - 1)
    assert bool(found.problem) == (one != other)


@given(st.integers(-2, 0) | st.integers(ENTRIES + 1, 20) | st.text("ab", min_size=1, max_size=3))
def test_an_entry_put_in_is_found(pristine, number):
    insert = "INSERT INTO audit SELECT ?, at, who, action, company, details, hash FROM audit WHERE number = 1"
    assert _found(pristine, insert, (number,)).problem


def test_an_entry_that_cannot_be_read_any_more_says_so(pristine):
    copy = pristine.with_name("unreadable.db")
    shutil.copy(pristine, copy)
    _tamper(copy, "UPDATE audit SET details = '{' WHERE number = 2")
    with (
        closing(ControlStore(f"sqlite:///{copy}")) as store,
        pytest.raises(LpmStreamError, match=r"entry 2 .*--verify"),
    ):
        audit.entries(store)


def test_who_is_the_account_and_whoever_else_is_known(monkeypatch):
    monkeypatch.delenv("LPM_STREAM_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "ann")
    account = who()
    assert account.startswith("ann@")
    with on_behalf_of("Dagster run 12345678"):
        assert who() == f"Dagster run 12345678 ({account})"
        monkeypatch.setenv("LPM_STREAM_USER", "Ann Other")
        assert who() == f"Ann Other, Dagster run 12345678 ({account})"
    assert who() == f"Ann Other ({account})"


def _nameless(number: int) -> None:
    raise KeyError(number)


def test_an_account_without_a_name_is_its_number(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", _nameless)
    assert who().startswith("uid ")
