"""Decimals end to end, to the last digit: table, hub, company databases, audit, quarantine and legacy files."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from deltalake import DeltaTable

from lpm_stream.audit.run import audit
from lpm_stream.control import quarantine, registry
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.database import open_database
from lpm_stream.delivery.replay import Replayed, replay
from lpm_stream.errors import SchemaError
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.schema import contract_schema
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.delivery.databases import query, run
from lpm_stream_tests.example import append, create_table, deliver, publish
from lpm_stream_tests.legacy.example import HOUR, commit_at, keys, one, put

FORM = LegacyFormat(
    file_name="{company}_{start}{issue}.csv",
    period="hourly",
    time_zone="UTC",
    delimiter=";",
    columns={"NUMBER": "number", "PRICE": "price", "RATE": "rate", "WEIGHT": "weight"},
    decimal_mark=",",
    grace_seconds=600,
    settle_seconds=0,
)
SPEC = FeedSpec(
    name="prices",
    description="Prices, with a decimal key, for the tests",
    source_table="prices",
    company_column="company",
    primary_key=("number",),
    event_time_column="at",
    columns=(
        Column(name="number", type="decimal", precision=12, scale=3, nullable=False, description="key"),
        Column(name="company", type="string", nullable=False, max_length=10, description="company"),
        Column(name="at", type="timestamp", nullable=False, description="event time"),
        Column(name="price", type="decimal", precision=10, scale=2, description="a price"),
        Column(name="rate", type="decimal", precision=38, scale=38, description="a part of one"),
        Column(name="weight", type="float64", description="a float"),
        Column(name="note", type="string", max_length=5, description="a text"),
    ),
    legacy=FORM,
)
PRICES = ["0", "-0.01", "327.68", "12.5", "99999999.99", "-99999999.99", None]
EXTRA = pl.Decimal(20, 4)  # of a column that the contract lacks
RATES = ["0.5", "-0.01", "0", f"0.{'9' * 38}", f"-0.{'9' * 38}", None, "0.1"]


def prices(*numbers: str, note: str = "x") -> pl.DataFrame:
    """Rows of company A with these keys."""
    count = range(len(numbers))
    rows = {
        "number": numbers,
        "company": "A",
        "at": [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=place) for place in count],
        "price": [PRICES[place % len(PRICES)] for place in count],
        "rate": [RATES[place % len(RATES)] for place in count],
        "weight": [place + 0.25 for place in count],
        "note": note,
    }
    return pl.DataFrame(rows).with_columns(
        pl.col(name).cast(dtype) for name, dtype in contract_schema(SPEC).items()
    )


NUMBERS = [f"{place - 5}.125" for place in range(14)]


@pytest.fixture
def stream(settings: Settings) -> Iterator[Stream]:
    """The feed, with its table."""
    create_table(settings.table_location(SPEC.source_table), prices())
    with open_stream(settings, SPEC) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql", "tsql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where company A's database is to be, of each kind in turn."""
    return (
        f"sqlite:///{tmp_path}/A.db"
        if request.param == "sqlite"
        else request.getfixturevalue(f"{request.param}_url")
    )


def is_clean(stream: Stream, scratch: Path, rows: int) -> bool:
    urls = registry.database_urls(stream.store, stream.settings)
    [found] = audit(stream.spec, stream.table, urls, scratch=scratch, settle_seconds=0.01).companies
    return found.clean and found.counts.rows_in_database == rows


@pytest.mark.parametrize("wire", ["avro", "ndjson"])
def test_the_whole_way(settings: Settings, url: str, tmp_path: Path, wire: Literal["avro", "ndjson"]) -> None:
    create_table(settings.table_location(SPEC.source_table), prices())
    with open_stream(settings, SPEC.model_copy(update={"wire_format": wire})) as stream:
        registry.register(stream.store, "A", url)
        append(stream.table, prices(*NUMBERS))
        DeltaTable(stream.table).update(
            updates={"price": "CAST(0.07 AS DECIMAL(10, 2))"}, predicate="weight = 2.25"
        )
        DeltaTable(stream.table).delete("weight IN (3.25, 4.25)")
        publish(stream)
        deliver(stream)
        assert is_clean(stream, tmp_path / "scratch", 12)
        with closing(open_database(SPEC, "A", url)) as database:
            rows = query(database, "SELECT price FROM prices WHERE weight = 2.25")
            assert [str(price) for (price,) in rows] == ["0.07"]
            run(database, "UPDATE prices SET price = '0.08' WHERE weight = 2.25")
        assert not is_clean(stream, tmp_path / "scratch", 12)
        backfill(stream, "A", rebuild=False, go_on=lambda: True, tell=lambda _rows, _total: None)
        assert is_clean(stream, tmp_path / "scratch", 12)


def test_a_row_with_a_decimal_key_comes_out_of_quarantine(stream: Stream, tmp_path: Path) -> None:
    registry.register(stream.store, "A")
    append(stream.table, prices("-0.500", "7.000", note="too long"))
    publish(stream)
    deliver(stream)
    payloads = [entry.row.payload for entry in quarantine.entries(stream.store, SPEC.name)]
    assert sorted('"number": "-0.500"' in payload for payload in payloads) == [False, True]
    DeltaTable(stream.table).update(updates={"note": "'short'"}, predicate="weight = 0.25")
    DeltaTable(stream.table).delete("weight = 1.25")
    assert replay(stream, "A") == Replayed("A", 1, 1, 0)
    publish(stream)
    deliver(stream)
    assert is_clean(stream, tmp_path / "scratch", 1)


def test_a_source_that_becomes_wider_is_followed_or_stops(settings: Settings, url: str, tmp_path: Path) -> None:
    wider = prices(*NUMBERS).cast({"price": pl.Decimal(14, 2)})
    create_table(settings.table_location(SPEC.source_table), wider)
    with (
        open_stream(settings, SPEC) as stream,
        pytest.raises(SchemaError, match=r"column price .*decimal\(10,2\)"),
    ):
        publish(stream)
    with open_stream(settings, SPEC.model_copy(update={"schema_policy": "evolve"})) as stream:
        registry.register(stream.store, "A", url)
        DeltaTable(stream.table).update(updates={"price": "CAST(123456789012.34 AS DECIMAL(14, 2))"})
        gained = prices("20").with_columns(
            price=pl.lit("-1.5").cast(pl.Decimal(14, 2)), extra=pl.lit("7").cast(EXTRA)
        )
        append(stream.table, gained, schema_mode="merge")
        publish(stream)
        deliver(stream)
        assert is_clean(stream, tmp_path / "scratch", len(NUMBERS) + 1)
        with closing(open_database(SPEC, "A", url)) as database:
            rows = query(database, "SELECT price, extra FROM prices WHERE number IN (20, '20.000')")
        assert [tuple(map(str, row)) for row in rows] == [("-1.50", "7.0000")]


def test_a_file_is_compared_by_value_with_the_declared_mark(stream: Stream) -> None:
    registry.register(stream.store, "A")
    rows = prices(*NUMBERS)
    append(stream.table, rows)
    commit_at(stream.table, HOUR.start)
    publish(stream)
    deliver(stream)
    path = put(stream, "A", rows)
    text = Path(stream.settings.legacy_url, path).read_text()
    assert "-5,125;0,00;0,50" in text
    assert one(stream).verdict == "passed"
    same = text.replace("-5,125;0,00;0,50", "-5,1250;0;+,50").replace(";12,50;", ";12,500;")
    put(stream, "A", same.encode(), issue=1)
    assert one(stream).verdict == "passed"
    changed = text.replace(";12,50;", ";12,51;").replace(";327,68;", ";327,681;").replace(";-0,01;", ";-0.01;", 1)
    put(stream, "A", changed.encode(), issue=2)
    found = one(stream)
    assert found.verdict == "failed"
    assert keys(found) == {"different": ["-2.125", "5.125"]}
    assert {example.columns for example in found.examples["different"]} == {("price",)}
    assert [line.line for line in found.broken] == [3, 4, 11]


def test_what_was_withdrawn_is_explained_by_a_decimal_key(stream: Stream) -> None:
    registry.register(stream.store, "A")
    rows = prices(*NUMBERS)
    append(stream.table, rows)
    commit_at(stream.table, HOUR.start)
    put(stream, "A", rows)
    DeltaTable(stream.table).delete("weight = 3.25")
    commit_at(stream.table, HOUR.end + timedelta(seconds=1))
    publish(stream)
    deliver(stream)
    found = one(stream)
    assert (found.verdict, found.faults.explained) == ("passed", {"withdrawn_later": 1})
