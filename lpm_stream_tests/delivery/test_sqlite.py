"""What is particular about SQLite; test_conformance.py has what every kind of database has to do."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import adbc_driver_sqlite.dbapi as adbc
import polars as pl
import pytest

from lpm_stream.delivery import sqlite
from lpm_stream.delivery.database import open_database
from lpm_stream.delivery.sqlite import SqliteDatabase
from lpm_stream.errors import LpmStreamError, RowFaultError, TargetFaultError
from lpm_stream_tests.delivery.databases import amounts, changes, merge, query
from lpm_stream_tests.example import SPEC

LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "companies" / "A.db"


@pytest.fixture
def database(path: Path) -> Iterator[SqliteDatabase]:
    opened = SqliteDatabase(SPEC, "A", str(path))
    yield opened
    opened.close()


def test_another_that_makes_the_same_new_file_is_waited_for(path, monkeypatch):
    """SQLite itself does not, whatever its busy timeout."""
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 0", *sqlite._PRAGMAS[1:]))
    monkeypatch.setattr(sqlite, "_OPENING_SECONDS", 60.0)
    path.parent.mkdir()
    with closing(adbc.connect(str(path), autocommit=True)) as other, closing(other.cursor()) as cursor:
        cursor.execute("BEGIN EXCLUSIVE")
        ending = threading.Timer(0.2, cursor.execute, ["COMMIT"])
        ending.start()
        SqliteDatabase(SPEC, "A", str(path)).close()
        ending.join()


def test_instants_sort_by_time_and_sqlite_reads_them(database):
    for key, at in (("1", LAST), ("2", datetime(1, 1, 1, tzinfo=UTC)), ("3", datetime(2026, 1, 2, tzinfo=UTC))):
        merge(database, changes("insert", key, ordered_at=at), 1)
    assert query(database, "SELECT id FROM orders ORDER BY ordered_at") == [("2",), ("3",), ("1",)]
    assert query(database, "SELECT date(ordered_at, '+1 day') FROM orders WHERE id = '3'") == [("2026-01-03",)]
    plan = query(database, "EXPLAIN QUERY PLAN SELECT id FROM orders WHERE ordered_at > '2026'")
    assert "ix_orders_ordered_at" in str(plan)


def test_a_locked_database_is_a_fault_of_the_database(database, path, monkeypatch):
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 20", *sqlite._PRAGMAS[1:]))
    impatient = SqliteDatabase(SPEC, "A", str(path))
    with database.transaction(), pytest.raises(TargetFaultError, match="locked"):
        amounts(impatient)
    assert amounts(impatient) == {}
    with database.transaction(), pytest.raises(TargetFaultError, match="locked"):
        SqliteDatabase(SPEC, "A", str(path))
    impatient.close()


def test_a_full_disk_is_a_fault_of_the_database_and_loses_nothing(database):
    merge(database, changes("insert", "1"), 1)
    [(pages,)] = query(database, "PRAGMA page_count")
    run_outside(database, f"PRAGMA max_page_count = {pages + 1}")
    large = changes("insert", *map(str, range(2, 200)), note="n" * 900)
    # In the middle of many rows ADBC does not say what failed: a single one shows that the database is at fault.
    with pytest.raises((TargetFaultError, RowFaultError), match=r"full|row"):
        merge(database, large, 2)
    with pytest.raises(TargetFaultError, match="full"):
        merge(database, large.head(1).with_columns(note=pl.lit("n" * 100_000)), 2)
    assert amounts(database) == {"1": 1}
    run_outside(database, "PRAGMA max_page_count = 1000000")
    merge(database, large, 2)
    assert len(amounts(database)) == 199


def run_outside(database: SqliteDatabase, statement: str) -> None:
    with database._connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.fetchall()


@pytest.mark.parametrize("content", [b"garbage" * 1_000, b"SQLite format 3\0" + b"\xff" * 5_000])
def test_a_file_that_is_no_database_is_a_fault_of_the_database(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(TargetFaultError, match=r"A\.db"):
        SqliteDatabase(SPEC, "A", str(path))


def test_a_path_that_cannot_be_a_file_is_a_fault_of_the_database(path):
    path.mkdir(parents=True)
    with pytest.raises(TargetFaultError, match=r"A\.db"):
        SqliteDatabase(SPEC, "A", str(path))
    (path / "file").touch()
    with pytest.raises(TargetFaultError, match="file"):
        SqliteDatabase(SPEC, "A", str(path / "file" / "below.db"))


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_that_is_replaced_or_removed_while_open_is_noticed(database, path, replaced):
    """SQLite would go on in a file that has no name any more, and what it writes there would be lost."""
    merge(database, changes("insert", "1"), 1)
    if replaced:
        shutil.copy(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").replace(path)
    else:
        path.unlink()
    with pytest.raises(TargetFaultError, match=r"A\.db"):
        merge(database, changes("insert", "2"), 2)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "not a SQLAlchemy URL"),
        ("", "not a SQLAlchemy URL"),
        ("mssql://host:port/x", "not a SQLAlchemy URL"),
        ("oracle://host/x", "'oracle' are not supported"),
        ("postgresql://host", "names no database"),
        ("postgresql://host/", "names no database"),
        (f"postgresql://host/{'x' * 64}", "at most 63 bytes"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_of_no_database_is_an_error(url, said):
    with pytest.raises(LpmStreamError, match=said):
        open_database(SPEC, "A", url)


def test_views_on_the_table_outlive_a_swap(database):
    merge(database, changes("insert", "1"), 1)
    run_outside(database, "CREATE VIEW totals AS SELECT count(*) AS n, sum(amount) AS amount FROM ORDERS")
    run_outside(database, "CREATE TRIGGER t AFTER INSERT ON Orders BEGIN SELECT n FROM totals; END")
    with database.transaction() as transaction:
        transaction.create_replacement()
        transaction.swap()
    merge(database, changes("insert", "2", "3", amount=4), 2)
    assert query(database, "SELECT * FROM totals") == [(2, 8)]
    assert query(database, "SELECT count(*) FROM sqlite_schema WHERE name = 't'") == [(1,)]
