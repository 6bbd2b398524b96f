"""What every kind of company database has to do, tried on each of them."""

import threading
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from types import NoneType
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream.delivery.watermark import Chunks, Watermark
from lpm_stream.errors import LeaseLostError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, POLARS_TYPES, contract_schema
from lpm_stream.feed.spec import MOST_DIGITS, Column, FeedSpec
from lpm_stream_tests.delivery.databases import (
    add_text_column,
    amounts,
    changes,
    merge,
    picky,
    query,
    rename_column,
    run,
    store,
    stored,
    watermark,
)
from lpm_stream_tests.example import SPEC

LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
BOUNDLESS = SPEC.model_copy(
    update={
        "columns": tuple(
            column.model_copy(update={"max_length": None}) if column.name == "note" else column
            for column in SPEC.columns
        )
    }
)
EVERY_KEY = FeedSpec(
    name="odd",
    description="A key of every type that can be one",
    source_table="odd",
    company_column="company",
    primary_key=("a_string", "a_int32", "a_int64", "a_boolean", "a_timestamp", "a_date", "a_decimal"),
    event_time_column="a_timestamp",
    columns=(
        Column(name="company", type="string", nullable=False, max_length=10, description="company"),
        *(
            Column(name=f"a_{name}", type=name, nullable=name == "float64", description="of every type")
            for name in POLARS_TYPES
        ),
        Column(
            name="a_decimal", type="decimal", precision=12, scale=3, nullable=False, description="of every type"
        ),
    ),
)


def decimals(digits: int, scale: int) -> st.SearchStrategy[Decimal]:
    whole = st.integers(1 - 10**digits, 10**digits - 1)
    return whole.map(lambda unscaled: Decimal(unscaled).scaleb(-scale, Context(MOST_DIGITS)))


KEYS = st.fixed_dictionaries(
    {
        "a_string": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        "a_int32": st.integers(-(2**31), 2**31 - 1),
        "a_int64": st.integers(-(2**63), 2**63 - 1),
        "a_boolean": st.booleans(),
        "a_timestamp": st.datetimes(timezones=st.just(UTC)),
        "a_date": st.dates(),
        "a_decimal": decimals(12, 3),
    }
)


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
def test_values_are_kept(place, column, value, kept):
    """In SQLite as `kept`, which has no more types; elsewhere as what they are, instants in SQL Server in UTC.

    SQL Server has no infinity, and nothing between zero and the smallest normal float.
    """
    with closing(place.open(spec=BOUNDLESS)) as database:
        rows = changes("insert", "1", **{column: value})
        if place.kind == "mssql" and value in (5e-324, float("inf")):
            with pytest.raises(RowFaultError, match="column weight is a float that SQL Server cannot store"):
                merge(database, rows, 1)
            return
        merge(database, rows, 1)
        found = stored(database)
    wanted = kept if place.kind == "sqlite" else value
    if place.kind == "mssql" and isinstance(value, datetime):
        wanted = value.replace(tzinfo=None)
    assert found[column] == wanted
    assert type(found[column]) is type(wanted)


DIGITS = {"price": (10, 2), "exact": (38, 10), "whole": (38, 0), "part": (3, 3)}
MANY = f"{'9' * 28}.{'9' * 10}"
DECIMALS = [
    *(
        "0",
        "-0.00",
        "1",
        "-1",
        "0.5",
        "-0.01",
        "0.001",
        "-0.999",
        "1.50",
        "100",
        "327.68",
        "-32768",
        "12345678.90",
    ),
    *("99999999.99", "-99999999.99", MANY, f"-{MANY}", "9" * 38, f"-{'9' * 38}", None),
]


def with_decimals(**digits: tuple[int, int]) -> FeedSpec:
    """The example with decimals of these digits, in all and behind the point."""
    added = (
        Column(name=name, type="decimal", precision=precision, scale=scale, description="a decimal")
        for name, (precision, scale) in digits.items()
    )
    return SPEC.model_copy(update={"columns": (*SPEC.columns, *added)})


def priced(*values: str | None, **digits: tuple[int, int]) -> pl.DataFrame:
    """A row for each value, which is its key too, and stands in every column that it fits into exactly."""
    rows = changes("insert", *map(str, values))
    return rows.with_columns(
        pl.Series(name, [value if _fits(value, *of) else None for value in values], pl.String).cast(
            pl.Decimal(*of)
        )
        for name, of in digits.items()
    )


def _fits(value: str | None, digits: int, scale: int) -> bool:
    whole, _, fraction = (value or "").lstrip("-0").partition(".")
    return len(whole) <= digits - scale and len(fraction.rstrip("0")) <= scale


def decimals_of(database: CompanyDatabase, *names: str) -> list[tuple[str | None, ...]]:
    """The rows' decimals as text, by key."""
    rows = sorted(query(database, f"SELECT id, {', '.join(names)} FROM orders"))
    return [tuple(f"{value:f}" if isinstance(value, Decimal) else value for value in row[1:]) for row in rows]


@pytest.mark.parametrize("kind", ["insert", "update_postimage"])
def test_decimals(place, kind):
    """They are kept to the last digit: in SQLite as text with all digits of their scale, else as what they are.

    The driver hands those of PostgreSQL out as text too.
    """
    rows = priced(*DECIMALS, **DIGITS).with_columns(pl.lit(kind).alias(CHANGE_TYPE))
    assert all(0 < rows[name].null_count() < len(DECIMALS) for name in DIGITS)
    with closing(place.open(spec=with_decimals(**DIGITS))) as database:
        merge(database, rows.with_columns(pl.col(*DIGITS) * 0), 1)
        merge(database, rows, 2)
        assert decimals_of(database, *DIGITS) == rows.sort("id").select(pl.col(*DIGITS).cast(pl.String)).rows()
        kinds = {
            type(value) for row in query(database, f"SELECT {', '.join(DIGITS)} FROM orders") for value in row
        }
    assert kinds == {NoneType, Decimal if place.kind == "mssql" else str}


def test_a_decimal_that_has_become_wider_is_followed(place):
    """By the contract, or by the source alone under the policy `evolve`."""
    with closing(place.open(spec=with_decimals(price=(4, 2)))) as database:
        merge(database, priced("12.50", price=(4, 2)), 1)
        merge(database, priced("1234.56", price=(6, 2)), 2)
        merge(database, priced("-0.05", price=(3, 2)), 3)
    with closing(place.open(spec=with_decimals(price=(10, 2)))) as database:
        merge(database, priced("99999999.99", price=(10, 2)), 4)
        assert decimals_of(database, "price") == [("-0.05",), ("12.50",), ("1234.56",), ("99999999.99",)]


def test_a_decimal_that_the_source_gains_comes_with_its_digits(database):
    merge(database, changes("insert", "0"), 1)
    merge(database, priced("1.5", extra=(10, 3)), 2)
    merge(database, priced("999999999.25", extra=(12, 3)), 3)
    assert decimals_of(database, "extra") == [(None,), ("1.500",), ("999999999.250",)]


def test_a_decimal_that_a_company_may_not_get_any_more_is_dropped(place):
    spec = with_decimals(price=(10, 2))
    secret = tuple(
        one.model_copy(update={"group": "money"} if one.name == "price" else {}) for one in spec.columns
    )
    spec = spec.model_copy(update={"columns": secret})
    with closing(place.open(spec=spec)) as database:
        merge(database, priced("1.5", price=(10, 2)), 1)
    with closing(place.open(spec=spec.for_groups(["base"]))) as database:
        merge(database, priced("2.5", price=(10, 2)), 2)
        assert amounts(database) == {"1.5": 1, "2.5": 1}
    with closing(place.open(spec=spec)) as database:
        assert decimals_of(database, "price") == [(None,), (None,)]


def test_decimals_of_other_digits_behind_the_point_are_refused(place):
    with closing(place.open(spec=with_decimals(price=(10, 2)))) as database:
        merge(database, priced("1.5", price=(10, 2)), 1)
        said = r"(?i)check constraint failed: .*price|column price is \w+\(10,2\) in table .* but \w+\(10,3\)"
        with pytest.raises((TargetFaultError, RowFaultError), match=said):
            merge(database, priced("1.505", price=(10, 3)), 2)
        assert decimals_of(database, "price") == [("1.50",)]


def test_every_column_may_be_null_that_the_contract_lets_be(database):
    nothing: dict[str, Any] = {column.name: None for column in SPEC.columns if column.nullable}
    merge(database, changes("insert", "1", **nothing), 1)
    assert {name: value for name, value in stored(database).items() if name in nothing} == nothing


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


@pytest.fixture
def of_every_key(place):
    with closing(place.open(spec=EVERY_KEY)) as opened:
        yield opened


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KEYS, KEYS)
def test_keys_of_every_type_are_found_again(of_every_key, key, other):
    database = of_every_key
    run(database, "DELETE FROM odd")

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


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"customer": "B"}, "(?i)check constraint"),
        ({"customer": "a"}, "(?i)check constraint"),
        ({"customer": "A "}, "(?i)check constraint"),
        ({"customer": None}, "(?i)customer.* (not.null|allow nulls)|not null .*customer"),
        ({"ordered_at": None}, "(?i)ordered_at.* (not.null|allow nulls)|not null .*ordered_at"),
        ({"id": None}, "(?i)id.* (not.null|allow nulls)|not null .*id"),
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
        TargetFaultError,
        match=r"(?i)column amount is (integer|bigint) in table orders .* but (string|text|nvarchar.*) .*--replace",
    ):
        merge(database, wrong, 1)


@pytest.mark.parametrize("company", ["it's", 'say "hi"', "%s", ":x", "a\\", "\U0001f691" * 450, "--", "x\ny", "?"])
def test_the_constraint_holds_for_any_company(place, company):
    database = place.open(company)
    merge(database, changes("insert", "1", company=company), 1)
    with pytest.raises(RowFaultError, match=r"(?i)check constraint"):
        merge(database, changes("insert", "2", company=company + "'"), 1)
    with pytest.raises(RowFaultError, match=r"(?i)check constraint"):
        merge(database, changes("insert", "2", company=company[:-1] + "z"), 1)
    assert amounts(database) == {"1": 1}
    database.close()


def test_a_watermark_is_stored_and_read_as_it_was(place, database):
    assert watermark(database) == Watermark()
    pending = {(8, "it's"): Chunks(frozenset({0, 2}), None), (9, "b"): Chunks(frozenset({1}), 1)}
    value = Watermark(2**40, 7, 2**53, 3, 2**53, pending, 2**41)
    store(database, value)
    assert watermark(database) == value
    database.close()
    again = place.open()
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


def test_the_database_of_another_company_is_refused(place, database):
    database.close()
    with pytest.raises(TargetFaultError, match="belongs to company 'A', not 'B'"):
        place.open("B")


def test_another_feed_has_a_table_of_its_own(place, database):
    merge(database, changes("insert", "1"), 1)
    store(database, Watermark(1))
    database.close()
    other = place.open(spec=SPEC.model_copy(update={"name": "returns"}))
    assert watermark(other) == Watermark()
    assert query(other, "SELECT count(*) FROM returns") == [(0,)]
    assert amounts(other) == {"1": 1}
    other.close()


def test_a_database_that_has_lost_its_table_is_refused(place, database):
    store(database, Watermark(1))
    run(database, "DROP TABLE orders")
    database.close()
    with (
        closing(place.open()) as again,
        pytest.raises(TargetFaultError, match="lost its table orders"),
    ):
        merge(again, changes("insert", "1"), 1)


def test_a_database_that_has_lost_its_watermark_begins_with_none(place, database):
    merge(database, changes("insert", "1"), 1)
    run(database, "DELETE FROM _lpm_watermark")
    with pytest.raises(TargetFaultError, match="lost its watermark"):
        watermark(database)
    database.close()
    with closing(place.open()) as again:
        assert watermark(again) == Watermark()
        assert amounts(again) == {"1": 1}


def test_a_table_that_lost_a_column_is_a_fault_of_the_database(place, database):
    rename_column(database, "orders", "amount", "total")
    with pytest.raises(TargetFaultError):
        merge(database, changes("insert", "1"), 1)
    database.close()
    with closing(place.open()) as again:
        merge(again, changes("insert", "1"), 1)  # the column came again
        assert query(again, "SELECT amount, total FROM orders") == [(1, None)]


def test_a_column_of_the_customers_own_is_left_alone(database):
    add_text_column(database, "orders", "remark")
    merge(database, changes("insert", "1"), 1)
    run(database, "UPDATE orders SET remark = 'mine'")
    merge(database, changes("update_postimage", "1", amount=2), 2)
    assert query(database, "SELECT amount, remark FROM orders") == [(2, "mine")]


def test_a_column_that_the_contract_gains_is_added(place, database):
    merge(database, changes("insert", "1"), 1)
    store(database, Watermark(1))
    database.close()
    added = Column(name="extra", type="timestamp", description="new")
    with closing(place.open(spec=SPEC.model_copy(update={"columns": (*SPEC.columns, added)}))) as again:
        assert query(again, "SELECT id, extra FROM orders") == [("1", None)]
        merge(again, changes("insert", "2").with_columns(extra=pl.lit(LAST, POLARS_TYPES["timestamp"])), 2)
        assert query(again, "SELECT count(extra) FROM orders") == [(1,)]


@pytest.mark.parametrize("wanted", ["boolean", "float64"])
def test_a_contract_that_the_table_cannot_follow_is_a_fault_of_the_table(place, wanted):
    """No value of the column is turned into something else on the way."""
    columns = [
        Column(name="amount", type="timestamp", description="was") if c.name == "amount" else c
        for c in SPEC.columns
    ]
    place.open(spec=SPEC.model_copy(update={"columns": tuple(columns)})).close()
    columns = [
        Column(name="amount", type=wanted, description="is") if c.name == "amount" else c for c in SPEC.columns
    ]
    spec = SPEC.model_copy(update={"columns": tuple(columns)})
    with closing(place.open(spec=spec)) as database:
        rows = changes("insert", "1").with_columns(amount=pl.lit(None, POLARS_TYPES[wanted]))
        with pytest.raises(
            TargetFaultError, match=r"orders .* does not fit the contract: column amount .*--replace"
        ):
            merge(database, rows, 1)


@pytest.mark.parametrize("key", [("id", "due"), ("amount",)])
def test_a_table_of_another_key_is_a_fault_of_the_table_until_it_is_built_anew(place, database, key):
    merge(database, changes("insert", "1"), 1)
    store(database, Watermark(1))
    database.close()
    columns = tuple(c.model_copy(update={"nullable": c.nullable and c.name not in key}) for c in SPEC.columns)
    spec = SPEC.model_copy(update={"primary_key": key, "columns": columns})
    new = changes("insert", "1", amount=2)
    with closing(place.open(spec=spec)) as again:
        said = rf"its key is id, the contract says {', '.join(key)}; .*lpm-stream backfill COMPANY --replace"
        with pytest.raises(TargetFaultError, match=said):
            merge(again, new, 2)
        with again.transaction() as transaction:
            transaction.create_replacement()
            transaction.swap()
    with closing(place.open(spec=spec)) as built:
        merge(built, new, 3)
        assert amounts(built) == {"1": 2}


def test_the_order_of_the_keys_columns_does_not_matter(place):
    place.open(spec=EVERY_KEY).close()
    turned = EVERY_KEY.model_copy(update={"primary_key": EVERY_KEY.primary_key[::-1]})
    with closing(place.open(spec=turned)) as again:
        key = {
            "a_string": "",
            "a_int32": 1,
            "a_int64": 2,
            "a_boolean": True,
            "a_timestamp": LAST,
            "a_date": date.max,
            "a_decimal": Decimal("-999999999.999"),
        }
        row = {"company": "A"} | key | {"a_float64": 0.5}
        rows = pl.DataFrame([row], schema=contract_schema(EVERY_KEY))
        merge(again, rows.with_columns(pl.lit("insert").alias(CHANGE_TYPE)), 1)
        assert query(again, "SELECT a_float64 FROM odd") == [(0.5,)]


def test_columns_of_the_source_come_with_their_types(database):
    extra = {
        "a_text": pl.lit("x"),
        "a_flag": pl.lit(value=True),
        "a_day": pl.lit(date(2026, 1, 2)),
        "a_float": pl.lit(0.5),
        'od"d; --': pl.lit(7, pl.Int32),
        "nothing": pl.lit(None),
    }
    merge(database, changes("insert", "1").with_columns(**extra), 1)
    merge(database, changes("insert", "2"), 1)
    merge(database, changes("insert", "3").with_columns(**{'od"d; --': pl.lit(None)}), 1)
    rows = query(database, 'SELECT id, a_text, a_float, "od""d; --" FROM orders ORDER BY id')
    assert rows == [("1", "x", 0.5, 7), ("2", None, None, None), ("3", None, None, None)]


def test_a_sweep_removes_what_is_of_earlier_versions(database):
    for version in (1, 2, 3):
        merge(database, changes("insert", str(version)), version)
    with database.transaction() as transaction:
        transaction.sweep(2)
    assert amounts(database) == {"2": 1, "3": 1}


def replacing(*keys: str) -> pl.DataFrame:
    rows = changes("insert", *keys, amount=9).drop(CHANGE_TYPE)
    return rows.with_columns(pl.lit(5, pl.Int64).alias(COMMIT_VERSION))


def test_a_replacement_is_seen_when_it_is_swapped_in(place, database):
    merge(database, changes("insert", "1"), 1)
    with database.transaction() as transaction:
        transaction.create_replacement()
        transaction.fill_replacement(replacing("killed"))
    for parts in (["2"], ["3", "4"]):
        with database.transaction() as transaction:
            if parts == ["2"]:
                transaction.create_replacement()  # in place of what was left over
            transaction.fill_replacement(replacing(*parts).with_columns(amount=pl.lit(0, pl.Int64)))
            transaction.fill_replacement(replacing(*parts))
            transaction.fill_replacement(replacing())
    with closing(place.open()) as reader:
        assert amounts(reader) == {"1": 1}
        merge(database, changes("insert", "5"), 2)
        assert amounts(reader) == {"1": 1, "5": 1}
        with database.transaction() as transaction:
            transaction.swap()
        assert amounts(reader) == {"2": 9, "3": 9, "4": 9}
        merge(reader, changes("update_postimage", "3", amount=4), 4)
        merge(reader, changes("update_postimage", "4", amount=6), 6)
        assert amounts(reader) == {"2": 9, "3": 9, "4": 6}
        with pytest.raises(RowFaultError):
            merge(reader, changes("insert", "6", company="B"), 6)


def test_a_swap_can_be_repeated_and_undone(database):
    merge(database, changes("insert", "1"), 1)
    for key in ("2", "3"):
        with database.transaction() as transaction:
            transaction.create_replacement()
            transaction.fill_replacement(replacing(key))
            transaction.swap()
        assert amounts(database) == {key: 9}

    def crash() -> None:
        with database.transaction() as transaction:
            transaction.create_replacement()
            transaction.swap()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert amounts(database) == {"3": 9}


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_the_customers_own_indexes_and_triggers_outlive_a_swap(database):
    merge(database, changes("insert", "1", amount=1), 1)
    picky(database, "new.amount = 13")
    run(database, "CREATE UNIQUE INDEX mine ON orders (note)")
    run(database, 'CREATE INDEX "an odd name; --" ON orders (amount) WHERE amount > 5')
    for _ in range(2):
        with database.transaction() as transaction:
            transaction.create_replacement()
            transaction.fill_replacement(replacing("2"))
            transaction.swap()
    with pytest.raises(RowFaultError, match="not here"):
        merge(database, changes("insert", "3", amount=13), 6)
    with pytest.raises(RowFaultError, match=r"(?i)unique"):
        merge(database, changes("insert", "3", note="note of 2"), 6)
    assert amounts(database) == {"2": 9}


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_what_the_replacement_cannot_have_keeps_the_table_as_it_was(database):
    run(database, "ALTER TABLE orders ADD COLUMN remark TEXT")
    run(database, "CREATE INDEX mine ON orders (remark)")
    merge(database, changes("insert", "1"), 1)
    with database.transaction() as transaction:
        transaction.create_replacement()
        transaction.fill_replacement(replacing("2"))

    def swap() -> None:
        with database.transaction() as transaction:
            transaction.swap()

    said = r"table orders in .* is not replaced: .* its index mine \(.*remark.*\); drop that first"
    with pytest.raises(TargetFaultError, match=said):
        swap()
    assert amounts(database) == {"1": 1}
    run(database, "DROP INDEX mine")
    swap()
    assert amounts(database) == {"2": 9}


def test_a_replacement_can_be_removed(database):
    merge(database, changes("insert", "1"), 1)
    for made in (True, False):
        with database.transaction() as transaction:
            if made:
                transaction.create_replacement()
            transaction.drop_replacement()
    with pytest.raises(TargetFaultError, match="_lpm_new_orders"):
        query(database, "SELECT id FROM _lpm_new_orders")
    assert amounts(database) == {"1": 1}


def test_a_replacement_refuses_the_rows_of_others_and_takes_in_columns(database):
    with database.transaction() as transaction:
        transaction.create_replacement()

    def fill() -> None:
        with database.transaction() as transaction:
            transaction.fill_replacement(replacing("1", "2").with_columns(customer=pl.lit("B")))

    with pytest.raises(RowFaultError):
        fill()
    with database.transaction() as transaction:
        transaction.fill_replacement(replacing("1").with_columns(extra=pl.lit(7)))
        transaction.swap()
    assert query(database, "SELECT id, extra FROM orders") == [("1", 7)]


def test_a_table_that_was_lost_is_built_anew_by_a_replacement(place, database):
    store(database, Watermark(1))
    run(database, "DROP TABLE orders")
    database.close()
    with closing(place.open()) as again, again.transaction() as transaction:
        transaction.create_replacement()
        transaction.fill_replacement(replacing("1"))
        transaction.swap()
    with closing(place.open()) as again:
        merge(again, changes("insert", "2"), 6)
        assert amounts(again) == {"1": 9, "2": 1}


def test_nothing_is_committed_after_a_statement_has_failed(database):
    """Whoever swallows the error cannot commit the half of it."""

    def work() -> None:
        with database.transaction() as transaction:
            transaction.merge(changes("insert", "1").with_columns(pl.lit(1, pl.Int64).alias(COMMIT_VERSION)))
            transaction.store(Watermark(1))
            transaction.merge(
                changes("insert", "2", company="B").with_columns(pl.lit(1, pl.Int64).alias(COMMIT_VERSION))
            )

    with pytest.raises(RowFaultError):
        work()
    assert amounts(database) == {}
    assert watermark(database).version == -1
    merge(database, changes("insert", "1"), 1)


def test_writers_at_once_take_turns(place, database):
    """What one reads at the beginning of its transaction, no other changes before its end."""

    def write(number: int) -> None:
        with closing(place.open()) as mine:
            for turn in range(10):
                with mine.transaction() as transaction:
                    before = transaction.watermark()
                    rows = changes("update_postimage", "shared", f"{number}.{turn}", amount=before.changes)
                    transaction.merge(
                        rows.with_columns(pl.lit(before.version + 1, pl.Int64).alias(COMMIT_VERSION))
                    )
                    transaction.store(Watermark(version=before.version + 1, changes=before.changes + 1))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mark = watermark(database)
    assert (mark.version, mark.changes) == (29, 30)
    assert len(amounts(database)) == 31
    assert amounts(database)["shared"] == 29


def test_many_may_open_a_new_database_at_once(place):
    opened: list[bool] = []

    def work() -> None:
        with closing(place.open()) as mine:
            opened.append(watermark(mine) == Watermark())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [True] * 4
