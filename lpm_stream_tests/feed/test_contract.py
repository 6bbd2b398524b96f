from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from lpm_stream.feed.contract import REASON, check
from lpm_stream.feed.schema import CHANGE_TYPE, contract_schema, fit
from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.example import SPEC, orders

LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)


def change(kind: str = "insert", **columns: Any) -> pl.DataFrame:
    return orders(["1"], "A", **columns).with_columns(pl.lit(kind).alias(CHANGE_TYPE))


def reasons(rows: pl.DataFrame, spec: FeedSpec = SPEC) -> list[str]:
    """Why the rows are refused; those that are not have to come out as they went in."""
    checked = check(spec, fit(spec, {name: rows.schema[name] for name in rows.columns if name[0] != "_"}), rows)
    assert checked.good.height + checked.bad.height == rows.height
    assert checked.good.columns == rows.columns
    return checked.bad[REASON].to_list() if checked.bad.height else []


def extreme(dtype: str, value: int) -> pl.DataFrame:
    name = {"timestamp": "ordered_at", "date": "due"}[dtype]
    return change().with_columns(pl.lit(value).cast(contract_schema(SPEC)[name]).alias(name))


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"amount": None, "note": None, "weight": None, "count": None, "paid": None, "due": None},
        {"note": ""},
        {"note": "n" * 1_000},
        {"note": "🚑" * 1_000},
        {"customer": "c" * 450},
        {"customer": " "},
        {"amount": -(2**63), "count": -(2**31)},
        {"weight": float("inf")},
        {"ordered_at": datetime(1, 1, 1, tzinfo=UTC), "due": date.min},
        {"ordered_at": LAST, "due": date.max},
    ],
    ids=str,
)
def test_rows_that_fit(columns):
    assert reasons(change(**columns)) == []


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"id": None}, "id is null"),
        ({"customer": None}, "customer is null"),
        ({"customer": ""}, "customer is empty: the row belongs to nobody"),
        ({"ordered_at": None}, "ordered_at is null"),
        ({"note": "n" * 1_001}, "note is longer than 1000"),
        ({"note": "a\0b"}, "note contains a NUL character"),
        ({"id": "\0"}, "id contains a NUL character"),
        ({"id": "i" * 41}, "id is longer than 40"),
        ({"customer": "c" * 451}, "customer is longer than 450"),
    ],
    ids=str,
)
def test_rows_that_do_not_fit(columns, reason):
    assert reasons(change(**columns)) == [reason]


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, -62_135_596_800_000_001, 253_402_300_800_000_000])
def test_instants_beyond_the_calendar(value):
    rows = extreme("timestamp", value)
    assert reasons(rows) == ["ordered_at is outside of the years 1 to 9999"]
    bad = check(SPEC, fit(SPEC, contract_schema(SPEC)), rows).bad
    assert bad.row(0, named=True)["ordered_at"] is None  # Python could not hold it


@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1, -719_163, 2_932_897])
def test_days_beyond_the_calendar(value):
    assert reasons(extreme("date", value)) == ["due is outside of the years 1 to 9999"]


def test_a_delete_is_only_asked_whose_row_it_removes():
    odd = change("delete", ordered_at=None, note="n" * 2_000)
    assert reasons(odd) == []
    beyond = odd.with_columns(due=pl.lit(2**31 - 1).cast(pl.Date))
    checked = check(SPEC, fit(SPEC, contract_schema(SPEC)), beyond)
    assert checked.good["due"].to_list() == [None]
    assert reasons(change("delete", id=None)) == ["id is null"]
    assert reasons(change("delete", customer=None)) == ["customer is null"]


def test_only_the_rows_that_break_it_are_refused():
    rows = pl.concat([change(), change(note="a\0b"), change("delete", id=None), change(note=None)])
    checked = check(SPEC, fit(SPEC, contract_schema(SPEC)), rows)
    assert checked.good["note"].to_list() == ["note of 1", None]
    assert checked.bad[REASON].to_list() == ["note contains a NUL character", "id is null"]
    assert checked.bad["note"].to_list()[0] == "a\0b"


def test_not_a_number_is_null_where_that_is_allowed():
    rows = change(weight=float("nan"))
    assert check(SPEC, fit(SPEC, contract_schema(SPEC)), rows).good["weight"].to_list() == [None]
    columns = tuple(
        column.model_copy(update={"nullable": column.name != "weight" and column.nullable})
        for column in SPEC.columns
    )
    strict = SPEC.model_copy(update={"columns": columns})
    assert reasons(rows, strict) == ["weight is null"]


def test_infinity_is_refused_where_the_wire_has_no_word_for_it():
    spec = SPEC.model_copy(update={"wire_format": "ndjson"})
    assert reasons(change(weight=float("-inf")), spec) == ["weight is infinite, for which JSON has no word"]
    assert reasons(change("delete", weight=float("inf")), spec) == []


def test_columns_that_evolve_takes_in_are_checked_too():
    spec = SPEC.model_copy(update={"schema_policy": "evolve"})
    rows = change().with_columns(extra=pl.lit("a\0b"), until=pl.lit(2**62).cast(pl.Datetime("us", "UTC")))
    assert reasons(rows, spec) == ["extra contains a NUL character"]
    assert reasons(rows.drop("extra"), spec) == ["until is outside of the years 1 to 9999"]


def test_a_narrower_source_is_widened():
    rows = change().with_columns(pl.col("amount").cast(pl.Int16), pl.col("ordered_at").dt.replace_time_zone(None))
    source = {name: dtype for name, dtype in rows.schema.items() if name != CHANGE_TYPE}
    good = check(SPEC, fit(SPEC, source), rows).good
    assert good.equals(change())


def test_no_rows_are_no_problem():
    assert reasons(change().clear()) == []


def test_a_column_may_spare_its_row():
    columns = tuple(
        column.model_copy(update={"on_breach": "value"}) if column.name == "note" else column
        for column in SPEC.columns
    )
    spec = SPEC.model_copy(update={"columns": columns})
    rows = pl.concat([change(), change(note="a\0b"), change(note="n" * 1_001), change(note="\0", id=None)])
    checked = check(spec, fit(spec, contract_schema(spec)), rows)
    assert checked.good["note"].to_list() == ["note of 1", None, None]
    assert checked.stripped["note"].to_list() == ["a\0b", "n" * 1_001]
    assert checked.stripped[REASON].to_list() == ["note contains a NUL character", "note is longer than 1000"]
    assert checked.bad[REASON].to_list() == ["id is null"]
