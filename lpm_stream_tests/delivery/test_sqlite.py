import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpm_stream.delivery import sqlite
from lpm_stream.delivery.database import CompanyDatabase, open_database
from lpm_stream.delivery.sqlite import SqliteDatabase
from lpm_stream.delivery.watermark import Chunks, Watermark
from lpm_stream.errors import LeaseLostError, LpmStreamError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, POLARS_TYPES, contract_schema
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream_tests.delivery.databases import amounts, changes, query, run, watermark
from lpm_stream_tests.example import SPEC

LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
EVERY_KEY = FeedSpec(
    name="odd",
    description="A key of every type that can be one",
    source_table="odd",
    company_column="company",
    primary_key=("a_string", "a_int32", "a_int64", "a_boolean", "a_timestamp", "a_date"),
    event_time_column="a_timestamp",
    columns=(
        Column(name="company", type="string", nullable=False, max_length=10, description="company"),
        *(
            Column(name=f"a_{name}", type=name, nullable=name == "float64", description="of every type")
            for name in POLARS_TYPES
        ),
    ),
)
KEYS = st.fixed_dictionaries(
    {
        "a_string": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        "a_int32": st.integers(-(2**31), 2**31 - 1),
        "a_int64": st.integers(-(2**63), 2**63 - 1),
        "a_boolean": st.booleans(),
        "a_timestamp": st.datetimes(timezones=st.just(UTC)),
        "a_date": st.dates(),
    }
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "companies" / "A.db"


@pytest.fixture
def database(path: Path) -> Iterator[SqliteDatabase]:
    opened = SqliteDatabase(SPEC, "A", str(path))
    yield opened
    opened.close()


def merge(database: CompanyDatabase, rows: pl.DataFrame, version: int) -> None:
    with database.transaction() as transaction:
        transaction.merge(rows.with_columns(pl.lit(version, pl.Int64).alias(COMMIT_VERSION)))


def store(database: CompanyDatabase, value: Watermark) -> None:
    with database.transaction() as transaction:
        transaction.store(value)


def stored(database: CompanyDatabase, key: str = "1") -> dict[str, Any]:
    names = [*SPEC.column_names, COMMIT_VERSION]
    [row] = query(database, f"SELECT {', '.join(names)} FROM orders WHERE id = '{key}'")
    return dict(zip(names, row, strict=True))


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("note", None, None),
        ("note", "", ""),
        ("note", "null", "null"),
        (
            "note",
            "\U0001f691\U0010ffff \u00e9 'q' \"d\" \\ \n\r\t; --",
            "\U0001f691\U0010ffff \u00e9 'q' \"d\" \\ \n\r\t; --",
        ),
        ("note", "x" * 1_000_000, "x" * 1_000_000),
        ("amount", -(2**63), -(2**63)),
        ("amount", 2**63 - 1, 2**63 - 1),
        ("count", -(2**31), -(2**31)),
        ("weight", 5e-324, 5e-324),
        ("weight", 1.7976931348623157e308, 1.7976931348623157e308),
        ("weight", 0.1, 0.1),
        ("weight", 3.0, 3.0),
        ("weight", float("inf"), float("inf")),
        ("paid", False, 0),
        ("paid", True, 1),
        ("paid", None, None),
        ("due", date.min, "0001-01-01"),
        ("due", date.max, "9999-12-31"),
        ("due", date(1969, 12, 31), "1969-12-31"),
        ("ordered_at", datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000"),
        ("ordered_at", datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), "1969-12-31T23:59:59.999999"),
        ("ordered_at", LAST, "9999-12-31T23:59:59.999999"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_are_kept(database, column, value, kept):
    merge(database, changes("insert", "1", **{column: value}), 1)
    found = stored(database)
    assert found[column] == kept
    assert type(found[column]) is type(kept)


def test_every_column_may_be_null_that_the_contract_lets_be(database):
    nothing: dict[str, Any] = {column.name: None for column in SPEC.columns if column.nullable}
    merge(database, changes("insert", "1", **nothing), 1)
    assert {name: value for name, value in stored(database).items() if name in nothing} == nothing


def test_instants_sort_by_time_and_sqlite_reads_them(database):
    for key, at in (("1", LAST), ("2", datetime(1, 1, 1, tzinfo=UTC)), ("3", datetime(2026, 1, 2, tzinfo=UTC))):
        merge(database, changes("insert", key, ordered_at=at), 1)
    assert query(database, "SELECT id FROM orders ORDER BY ordered_at") == [("2",), ("3",), ("1",)]
    assert query(database, "SELECT date(ordered_at, '+1 day') FROM orders WHERE id = '3'") == [("2026-01-03",)]
    plan = query(database, "EXPLAIN QUERY PLAN SELECT id FROM orders WHERE ordered_at > '2026'")
    assert "ix_orders_ordered_at" in str(plan)


def test_an_upsert_lands_unless_the_stored_row_is_newer(database):
    for version, amount, expected in [(5, 5, 5), (4, 4, 5), (5, 55, 55), (6, 6, 6), (1, 1, 6)]:
        merge(database, changes("update_postimage", "1", amount=amount), version)
        assert stored(database)["amount"] == expected
        assert stored(database)[COMMIT_VERSION] == max(5, version, 6 if expected == 6 else 0)


def test_a_delete_removes_the_row_only_if_it_is_older(database):
    merge(database, changes("insert", "1"), 5)
    for version in (4, 5):
        merge(database, changes("delete", "1"), version)
        assert amounts(database) == {"1": 1}
    merge(database, changes("delete", "1"), 6)
    assert amounts(database) == {}
    merge(database, changes("delete", "1"), 7)


def test_a_delete_needs_nothing_but_the_key_and_the_company(database):
    merge(database, changes("insert", "1"), 1)
    merge(database, changes("delete", "1", ordered_at=None, note="n" * 5_000), 2)
    assert amounts(database) == {}


@settings(max_examples=40)
@given(KEYS, KEYS)
def test_keys_of_every_type_are_found_again(tmp_path_factory, key, other):
    database = SqliteDatabase(EVERY_KEY, "A", str(tmp_path_factory.mktemp("keys") / "A.db"))

    def change(kind: str, values: dict[str, Any], number: float) -> pl.DataFrame:
        row = {"company": "A"} | values | {"a_float64": number}
        return pl.DataFrame([row], schema=contract_schema(EVERY_KEY)).with_columns(pl.lit(kind).alias(CHANGE_TYPE))

    merge(database, change("insert", key, 1.0), 1)
    merge(database, change("update_postimage", key, 2.0), 2)
    assert query(database, "SELECT a_float64 FROM odd") == [(2.0,)]
    if other != key:
        merge(database, change("delete", other, 0.0), 3)
        assert query(database, "SELECT count(*) FROM odd") == [(1,)]
    merge(database, change("delete", key, 0.0), 3)
    assert query(database, "SELECT count(*) FROM odd") == [(0,)]
    database.close()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"customer": "B"}, "CHECK constraint failed"),
        ({"customer": "a"}, "CHECK constraint failed"),
        ({"customer": "A "}, "CHECK constraint failed"),
        ({"customer": None}, "NOT NULL constraint failed: orders.customer"),
        ({"ordered_at": None}, "NOT NULL constraint failed: orders.ordered_at"),
        ({"id": None}, "NOT NULL constraint failed: orders.id"),
    ],
    ids=str,
)
def test_a_row_that_does_not_belong_is_refused(database, columns, said):
    with pytest.raises(RowFaultError, match=said):
        merge(database, changes("insert", "1", **columns), 1)
    assert amounts(database) == {}


def test_a_column_of_another_type_is_a_fault_of_the_table(database):
    wrong = changes("insert", "1").with_columns(amount=pl.lit("many"))
    with pytest.raises(
        TargetFaultError, match=r"column amount is INTEGER in table orders .* but string .* --replace"
    ):
        merge(database, wrong, 1)


@pytest.mark.parametrize("company", ["it's", 'say "hi"', "%s", ":x", "a\\", "\U0001f691" * 450, "--", "x\ny", "?"])
def test_the_constraint_holds_for_any_company(tmp_path, company):
    database = SqliteDatabase(SPEC, company, str(tmp_path / "odd.db"))
    merge(database, changes("insert", "1", company=company), 1)
    with pytest.raises(RowFaultError, match="CHECK"):
        merge(database, changes("insert", "2", company=company + "'"), 1)
    with pytest.raises(RowFaultError, match="CHECK"):
        merge(database, changes("insert", "2", company=company[:-1] + "z"), 1)
    assert amounts(database) == {"1": 1}
    database.close()


def test_a_watermark_is_stored_and_read_as_it_was(database, path):
    assert watermark(database) == Watermark()
    pending = {(8, "it's"): Chunks(frozenset({0, 2}), None), (9, "b"): Chunks(frozenset({1}), 1)}
    value = Watermark(2**40, 7, 2**53, 3, 2**53, pending, 2**41)
    store(database, value)
    assert watermark(database) == value
    database.close()
    again = SqliteDatabase(SPEC, "A", str(path))
    assert watermark(again) == value
    again.close()


def test_a_smaller_fence_cannot_store(database):
    store(database, Watermark(fence=5))
    store(database, Watermark(version=1, fence=5))
    with pytest.raises(LeaseLostError):
        store(database, Watermark(version=2, fence=4))
    assert watermark(database).version == 1


def test_what_fails_inside_a_transaction_is_rolled_back(database):
    def work() -> None:
        with database.transaction() as transaction:
            transaction.merge(changes("insert", "1").with_columns(pl.lit(1, pl.Int64).alias(COMMIT_VERSION)))
            transaction.store(Watermark(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert amounts(database) == {}
    assert watermark(database).version == -1


def test_the_database_of_another_company_is_refused(database, path):
    database.close()
    with pytest.raises(TargetFaultError, match="belongs to company 'A', not 'B'"):
        SqliteDatabase(SPEC, "B", str(path))


def test_another_feed_has_a_table_of_its_own(database, path):
    merge(database, changes("insert", "1"), 1)
    store(database, Watermark(1))
    database.close()
    other = SqliteDatabase(SPEC.model_copy(update={"name": "returns"}), "A", str(path))
    assert watermark(other) == Watermark()
    assert query(other, "SELECT count(*) FROM returns") == [(0,)]
    assert amounts(other) == {"1": 1}
    other.close()


def test_a_database_that_has_lost_its_table_is_refused(database, path):
    store(database, Watermark(1))
    run(database, "DROP TABLE orders")
    database.close()
    with (
        closing(SqliteDatabase(SPEC, "A", str(path))) as again,
        pytest.raises(TargetFaultError, match="lost its table orders"),
    ):
        merge(again, changes("insert", "1"), 1)


def test_a_database_that_has_lost_its_watermark_is_refused(database, path):
    run(database, "DELETE FROM _lpm_watermark")
    with pytest.raises(TargetFaultError, match="lost its watermark"):
        watermark(database)
    database.close()
    with pytest.raises(TargetFaultError, match=r'table "orders" already exists$'):
        SqliteDatabase(SPEC, "A", str(path))


def test_a_table_that_lost_a_column_is_a_fault_of_the_database(database):
    run(database, "ALTER TABLE orders RENAME COLUMN amount TO total")
    merge(database, changes("insert", "1"), 1)  # the column comes again
    assert query(database, "SELECT amount, total FROM orders") == [(1, None)]


def test_a_column_of_the_customers_own_is_left_alone(database):
    run(database, "ALTER TABLE orders ADD COLUMN remark TEXT")
    merge(database, changes("insert", "1"), 1)
    run(database, "UPDATE orders SET remark = 'mine'")
    merge(database, changes("update_postimage", "1", amount=2), 2)
    assert query(database, "SELECT amount, remark FROM orders") == [(2, "mine")]


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
        ("nonsense", "cannot be understood"),
        ("", "cannot be understood"),
        ("mssql://host:port/x", "cannot be understood"),
        ("oracle://host/x", "'oracle' are not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_of_no_database_is_an_error(url, said):
    with pytest.raises(LpmStreamError, match=said):
        open_database(SPEC, "A", url)
