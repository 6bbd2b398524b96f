"""Values are compared as they are: what is equal is equal, and nothing is normalised into place."""

import hashlib
import math
import sqlite3
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.audit.world import SPEC, World, as_stored, faults, frame, of, row, run_sql

LONG = "SIP 😀 " * 200


EQUAL = [
    ("weight", math.nan, None),
    ("weight", math.inf, math.inf),
    ("weight", -math.inf, -math.inf),
    ("weight", -0.0, 0.0),
    ("weight", 5e-324, 5e-324),
    ("weight", 0.1 + 0.2, 0.30000000000000004),
    ("rowid", 2**63 - 1, 2**63 - 1),
    ("rowid", -(2**63), -(2**63)),
    ("s", "", ""),
    ("s", None, None),
    ("s", "naïve 😀 𐍈\u200d e\u0301", "naïve 😀 𐍈\u200d e\u0301"),
    ("s", '\'; DROP TABLE "order"; --', '\'; DROP TABLE "order"; --'),
    ("s", "with\0nul", "with\0nul"),
    ("s", LONG, LONG),
    ("paid", None, None),
    ("due", date(1, 1, 1), "0001-01-01"),
    ("due", date(9999, 12, 31), "9999-12-31"),
    ("seen_at", datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000"),
    ("seen_at", datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), "1969-12-31T23:59:59.999999"),
    ("seen_at", datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC), "9999-12-31T23:59:59.999999"),
    ("seen_at", datetime(2026, 3, 29, 1, tzinfo=timezone(timedelta(hours=2))), "2026-03-28T23:00:00.000000"),
]
DIFFERENT = [
    ("s", "", None),
    ("s", None, ""),
    ("s", "a", "a "),
    ("s", "é", "e\u0301"),
    ("s", "a", b"a"),
    ("s", "1", 1),
    ("s", None, b""),
    ("s", LONG, LONG[:-1]),
    ("s", LONG, None),
    ("s", "with\0nul", "with"),
    ("rowid", 2**53 + 1, 2**53),
    ("rowid", 2**53 + 1, float(2**53)),
    ("rowid", 1, 1.0),
    ("rowid", 1, "1"),
    ("rowid", None, "x"),
    ("count", 1, 2**32 + 1),
    ("weight", 1.0, 1),
    ("weight", 1.0, "1.0"),
    ("weight", 0.3, 0.30000000000000004),
    ("weight", None, 0.0),
    ("weight", math.nan, "nan"),
    ("weight", math.inf, None),
    ("paid", True, 2),
    ("paid", True, "true"),
    ("paid", False, None),
    ("due", date(2026, 1, 2), "2026-1-2"),
    ("due", date(2026, 1, 2), 20455),
    ("seen_at", datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00"),
    ("seen_at", datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00.000000"),
    ("seen_at", datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00.000000+00:00"),
    ("seen_at", datetime(2026, 1, 2, tzinfo=UTC), "not a time"),
    ("seen_at", datetime(2026, 1, 2, tzinfo=UTC), 1767312000),
    ("seen_at", datetime(2026, 1, 2, 0, 0, 0, 1, UTC), "2026-01-02T00:00:00.000000"),
    ("s", LONG, hashlib.sha256(LONG.encode()).hexdigest()),
]


def differing(world: World, cases: Sequence[tuple[str, Any, Any]]) -> list[tuple[str, ...]]:
    """For each case, the columns that differ; a company each, whose one row holds the value here and there."""
    companies = [f"company {number}" for number in range(len(cases))]
    table = [
        row(1, company, id=company, **{case[0]: case[1]}) for company, case in zip(companies, cases, strict=True)
    ]
    world.commit(table)
    for values, (column, _, stored) in zip(table, cases, strict=True):
        world.register(values["company"], [as_stored(values) | {column: stored}], typed=False)
    report = world.audit()
    for company, counts in faults(report).items():
        assert counts == {"different": 1}, company
    found = [of(report, company).examples for company in companies]
    return [examples["different"][0].columns if examples else () for examples in found]


def test_equal_values(world: World) -> None:
    for case, columns in zip(EQUAL, differing(world, EQUAL), strict=True):
        assert columns == (), case


def test_different_values(world: World) -> None:
    for case, columns in zip(DIFFERENT, differing(world, DIFFERENT), strict=True):
        assert columns == (case[0],), case


def test_text_that_is_not_utf8_differs(world: World) -> None:
    world.commit([row(1, "A"), row(2, "A")])
    url = world.register("A", [as_stored(row(1, "A")), as_stored(row(2, "A"))])
    run_sql(url, """UPDATE "order" SET s = CAST(x'C328' AS TEXT) WHERE id = 'k1'""")
    report = world.audit()
    assert faults(report) == {"A": {"different": 1}}
    assert of(report, "A").examples["different"][0].columns == ("s",)


@pytest.mark.parametrize("key", [{"id": b"k1"}, {"id": 1}, {"group": "one"}, {"group": 1.5}])
def test_key_that_is_not_of_its_type_is_nobodys(world: World, key: dict[str, Any]) -> None:
    world.commit([row(1, "A")])
    world.register("A", [as_stored(row(1, "A")) | key, as_stored(row(1, "A"))], typed=False)
    report = world.audit(settle_seconds=0.1)
    assert faults(report) == {"A": {"extra": 1}}
    assert report.settled_version is None
    assert None in of(report, "A").examples["extra"][0].key


def test_company_that_is_not_a_text_is_misrouted(world: World) -> None:
    world.commit([row(1, "A")])
    world.register("A", [as_stored(row(1, "A")) | {"company": b"A"}], typed=False)
    assert faults(world.audit()) == {"A": {"misrouted": 1}}


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 253_402_300_800_000_000])
@pytest.mark.parametrize("zone", ["UTC", None])
def test_instants_beyond_the_calendar_differ(world: World, value: int, zone: str | None) -> None:
    table = frame([row(1, "A")]).to_arrow()
    place = table.schema.get_field_index("seen_at")
    table = table.set_column(place, "seen_at", pa.array([value], pa.timestamp("us", zone)))
    write_deltalake(world.table, table)
    world.register("A", [as_stored(row(1, "A"))])
    assert of(world.audit(), "A").examples["different"][0].columns == ("seen_at",)
    run_sql(world.databases["A"], 'UPDATE "order" SET seen_at = NULL')
    assert of(world.audit(), "A").examples["different"][0].columns == ("seen_at",)


def test_narrower_types_of_the_table_are_widened(world: World) -> None:
    narrow = frame([row(1, "A", rowid=7, weight=0.5)]).with_columns(
        pl.col("rowid").cast(pl.Int16),
        pl.col("weight").cast(pl.Float32),
        pl.col("seen_at").dt.replace_time_zone(None),
    )
    write_deltalake(world.table, narrow.to_arrow())
    world.register("A", [as_stored(row(1, "A", rowid=7, weight=0.5))])
    assert world.audit().clean


def test_columns_beyond_the_contract_are_left_alone(world: World) -> None:
    write_deltalake(world.table, frame([row(1, "A")]).with_columns(pl.lit("new").alias("added")).to_arrow())
    url = world.register("A", [as_stored(row(1, "A"))])
    run_sql(url, 'ALTER TABLE "order" ADD COLUMN other TEXT DEFAULT 0')
    assert world.audit().clean


@pytest.mark.parametrize(
    "company", ["O'Brien", 'say "hi"', "../../etc/passwd", "a b\tc", "😀", "x" * 300, "%s?#&", "$1", "NULL"]
)
def test_company_ids_are_data(world: World, company: str) -> None:
    table = [row(1, company), row(2, company), row(3, "B")]
    world.deliver(table, [company, "B"])
    assert world.audit().clean
    run_sql(world.databases[company], """DELETE FROM "order" WHERE id = 'k1'""")
    run_sql(world.databases[company], """UPDATE "order" SET company = 'B' WHERE id = 'k2'""")
    assert faults(world.audit(settle_seconds=0.1)) == {company: {"missing": 1, "misrouted": 1}}


def test_awkward_keys_are_data(world: World) -> None:
    keys = ["k'1", 'k"1', "", " ", "😀", "y" * 500, "a\0b", "%", "NULL", "k'1--"]
    table = [row(1, "A", id=key) for key in keys]
    world.deliver(table, ["A"])
    assert world.audit().clean
    run_sql(world.databases["A"], 'UPDATE "order" SET s = NULL')
    report = world.audit(settle_seconds=0.1)
    assert faults(report) == {"A": {"different": len(keys)}}
    assert {example.key[0] for example in of(report, "A").examples["different"]} == set(keys)


def test_keys_of_other_types(tmp_path: Path) -> None:
    key = ("seen_at", "due", "paid")
    columns = tuple(c.model_copy(update={"nullable": c.nullable and c.name not in key}) for c in SPEC.columns)
    spec = FeedSpec.model_validate(
        SPEC.model_dump() | {"primary_key": key, "columns": [c.model_dump() for c in columns]}
    )
    world = World(tmp_path, spec)
    world.deliver([row(number, "A") for number in range(6)], ["A"])
    run_sql(world.databases["A"], """UPDATE "order" SET s = 'x' WHERE id = 'k1'""")
    run_sql(world.databases["A"], """DELETE FROM "order" WHERE id = 'k2'""")
    report = world.audit(settle_seconds=0.1)
    assert faults(report) == {"A": {"missing": 1, "different": 1}}
    assert of(report, "A").examples["different"][0].key == ("2026-01-01T00:00:01.000001", "2026-01-02", 0)


def test_own_sqlite_is_the_one_measured() -> None:
    """The tests rely on what this SQLite does with a NaN."""
    assert sqlite3.connect(":memory:").execute("SELECT ?", (math.nan,)).fetchone() == (None,)
