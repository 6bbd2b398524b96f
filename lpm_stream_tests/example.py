"""A small feed of the tests' own, and what they need around it: a Delta table, databases, comparisons."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from deltalake import DeltaTable, QueryBuilder, write_deltalake

from lpm_stream.control.progress import read_checkpoints
from lpm_stream.control.registry import database_urls, register
from lpm_stream.feed.schema import contract_schema
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream

SPEC = FeedSpec(
    name="orders",
    description="Orders, for the tests",
    source_table="orders_gold",
    company_column="customer",
    primary_key=("id",),
    event_time_column="ordered_at",
    columns=(
        Column(name="id", type="string", nullable=False, max_length=40, description="key"),
        Column(name="customer", type="string", nullable=False, max_length=450, description="company"),
        Column(name="ordered_at", type="timestamp", nullable=False, description="event time"),
        Column(name="amount", type="int64", description="a number"),
        Column(name="note", type="string", max_length=1_000, description="a text"),
        Column(name="weight", type="float64", description="a float"),
        Column(name="count", type="int32", description="a small number"),
        Column(name="paid", type="boolean", description="a flag"),
        Column(name="due", type="date", description="a day"),
    ),
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def orders(
    keys: Sequence[str], customers: Sequence[str | None] | str, amount: int | None = 1, **columns: Any
) -> pl.DataFrame:
    """Orders with these keys; `columns` replaces whole columns by one value each."""
    count = len(keys)
    customer = [customers] * count if isinstance(customers, str) else list(customers)
    values: dict[str, Any] = {
        "id": list(keys),
        "customer": customer,
        "ordered_at": [START + timedelta(seconds=index) for index in range(count)],
        "amount": [amount] * count,
        "note": [f"note of {key}" for key in keys],
        "weight": [index / 7 for index in range(count)],
        "count": [index % 5 for index in range(count)],
        "paid": [index % 2 == 0 for index in range(count)],
        "due": [START.date()] * count,
    }
    values |= {name: [value] * count for name, value in columns.items()}
    return pl.DataFrame(values, schema=contract_schema(SPEC))


def create_table(location: str, rows: pl.DataFrame | None = None, *, cdf: bool = True) -> DeltaTable:
    """A Delta table of orders."""
    Path(location).parent.mkdir(parents=True, exist_ok=True)
    rows = orders([], []) if rows is None else rows
    configuration = {"delta.enableChangeDataFeed": "true"} if cdf else {}
    write_deltalake(location, rows.to_arrow(), configuration=configuration)
    return DeltaTable(location)


def append(location: str, rows: pl.DataFrame, **options: Any) -> None:
    """Commits an append."""
    write_deltalake(location, rows.to_arrow(), mode="append", **options)


def source_rows(location: str) -> pl.DataFrame:
    """What a table holds now.

    Not with `to_pyarrow_table`: a process that ends soon after it is aborted now and then (delta-rs issue 2184).
    """
    engine = QueryBuilder().register("source", DeltaTable(location))
    return pl.DataFrame(engine.execute("SELECT * FROM source").read_all())


def publish(stream: Stream) -> Any:
    """Publishes until caught up."""
    return stream.publisher().drain(poll_seconds=0.01, go_on=lambda: True, until_caught_up=True)


def deliver(stream: Stream) -> Any:
    """Delivers until caught up."""
    return stream.deliverer().drain(go_on=lambda: True, until_caught_up=True)


def stored(stream: Stream, company: str) -> dict[str, dict[str, Any]]:
    """A company's table as it is: key to row."""
    url = database_urls(stream.store, stream.settings)[company]
    with closing(sqlite3.connect(f"file:{sa.make_url(url).database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return {row["id"]: dict(row) for row in connection.execute(f'SELECT * FROM "{SPEC.name}"')}


def expected(stream: Stream, company: str) -> dict[str, dict[str, Any]]:
    """What a company's table should hold: key to row, as SQLite stores it."""
    rows = source_rows(stream.table).filter(pl.col("customer") == company)
    text = rows.with_columns(
        pl.col("ordered_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f"),
        pl.col("due").dt.strftime("%Y-%m-%d"),
        pl.col("paid").cast(pl.Int8),
    )
    return {row["id"]: row for row in text.iter_rows(named=True)}


def assert_delivered(stream: Stream, companies: Sequence[str]) -> None:
    """Every company's table equals the source table filtered to that company."""
    for company in companies:
        rows = {
            key: {name: value for name, value in row.items() if name != "_commit_version"}
            for key, row in stored(stream, company).items()
        }
        assert rows == expected(stream, company), company


@contextmanager
def begun(settings: Settings, companies: Sequence[str], spec: FeedSpec = SPEC) -> Iterator[Stream]:
    """A stream with an empty source table and these companies."""
    create_table(settings.table_location(spec.source_table))
    with open_stream(settings, spec) as opened:
        for company in companies:
            register(opened.store, company)
        yield opened


def undelivered(stream: Stream) -> int:
    """Number of messages behind the checkpoints."""
    through = read_checkpoints(stream.store, stream.spec.name)
    return sum(stream.hub.end(partition) - through.get(partition, 0) for partition in stream.hub.partitions())
