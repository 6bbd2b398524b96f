"""A backlog of 1,000,000 changes for 50 companies: throughput from the table to the databases, memory, bytes."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import adbc_driver_sqlite.dbapi as adbc
import polars as pl
from deltalake import DeltaTable

from bench.commands import peak_memory_bytes, relaying
from bench.measure import Measure
from lpm_stream.control import leases, ledger, progress, registry
from lpm_stream.delivery.tables import SqliteTables, quoted
from lpm_stream.feed.load import load_feeds
from lpm_stream.feed.schema import COMMIT_VERSION, contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.message import Hub
from lpm_stream.settings import Settings
from lpm_stream.source.simulate import Simulator
from lpm_stream.stream import Stream, open_stream

CHANGES, CHANGES_PER_COMMIT, COMPANIES = 1_000_000, 20_000, 50
BATCH_ROWS = 10_000
UNIT_BYTES = 1_000_000  # what a throughput unit of Event Hubs takes in a second


def measure(home: Path) -> list[Measure]:
    """Builds the backlog, relays it, and puts the same rows into the same tables without anything else."""
    shutil.rmtree(home, ignore_errors=True)
    settings = Settings.load(home)
    spec = next(iter(load_feeds().values()))
    companies = [f"C{number:03}" for number in range(COMPANIES)]
    table = settings.table_location(spec.source_table)
    Simulator(spec, table, companies, rate=CHANGES_PER_COMMIT, seed=1).backlog(CHANGES, CHANGES_PER_COMMIT)
    with open_stream(settings, spec) as stream:
        for company in companies:
            registry.register(stream.store, company)
        newest = DeltaTable(table).version()
        with relaying(home) as relay:
            while leases.lease_name("publish", spec.name) not in leases.holders(stream.store):
                time.sleep(0.02)  # starting the processes is not part of the throughput
            begun = time.perf_counter()
            while not _caught_up(stream, newest):
                time.sleep(0.1)
            seconds = time.perf_counter() - begun
            memory = peak_memory_bytes(relay)
        delivered = sum(one.changes for one in ledger.read(stream.store, spec.name).values())
        size = _hub_bytes(stream.hub)
    rate = delivered / seconds
    raw = _raw_rate(spec, table, home / "raw", settings.slots)
    per_row = size / delivered
    return [
        Measure("backlog: changes delivered", delivered, "changes"),
        Measure("backlog: Delta to SQLite", rate, "changes/s", 100_000, "above"),
        Measure("backlog: peak memory of the relay", memory / 2**20, "MiB", 1024),
        Measure("backlog: raw limit, ADBC staging and upsert alone", raw, "rows/s"),
        Measure("backlog: ratio to the raw limit", rate / raw, ""),
        Measure("hub: bytes a change", per_row, "bytes"),
        Measure("hub: changes/s for a throughput unit", UNIT_BYTES / per_row, "changes/s", 8_000, "above"),
    ]


def _caught_up(stream: Stream, newest: int) -> bool:
    cursor = progress.read_cursor(stream.store, stream.spec.name)
    if cursor is None or cursor.version < newest:
        return False
    through = progress.read_checkpoints(stream.store, stream.spec.name)
    return all(through.get(partition, 0) == stream.hub.end(partition) for partition in stream.hub.partitions())


def _hub_bytes(hub: Hub) -> int:
    """Size of all bodies in the hub."""
    total = 0
    for partition in hub.partitions():
        after = 0
        while received := hub.receive(partition, after, 500):
            total += sum(len(one.message.body) for one in received)
            after = received[-1].sequence_number
    return total


def _raw_rate(spec: FeedSpec, table: str, directory: Path, threads: int) -> float:
    """Rows a second through ADBC into a staging table and from there by upsert, nothing else; rows in memory."""
    directory.mkdir()
    changes = pl.DataFrame(DeltaTable(table).load_cdf(starting_version=0))
    upserts = changes.filter(pl.col("_change_type").is_in(["insert", "update_postimage"]))
    columns = [*contract_schema(spec), COMMIT_VERSION]
    rows = upserts.sort(COMMIT_VERSION).select(columns).with_columns(pl.col(COMMIT_VERSION).cast(pl.Int64))
    parts = {str(key[0]): part for key, part in rows.partition_by(spec.company_column, as_dict=True).items()}
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as slots:
        list(slots.map(lambda item: _load(spec, directory, *item), parts.items()))
    return rows.height / (time.perf_counter() - begun)


def _load(spec: FeedSpec, directory: Path, company: str, rows: pl.DataFrame) -> None:
    tables = SqliteTables(spec, company)
    names = ", ".join(quoted(name) for name in rows.columns)
    updates = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in rows.columns)
    keys = ", ".join(quoted(key) for key in spec.primary_key)
    upsert = (
        f"INSERT INTO {quoted(spec.name)} ({names}) SELECT {names} FROM temp.stage WHERE true "
        f"ON CONFLICT ({keys}) DO UPDATE SET {updates}"
    )
    with (
        adbc.connect(str(directory / f"{company}.db"), autocommit=True) as connection,
        connection.cursor() as cursor,
    ):
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", *tables.create):
            cursor.execute(statement)
            cursor.fetchall()
        for batch in rows.iter_slices(BATCH_ROWS):
            cursor.execute("BEGIN IMMEDIATE")
            unique = batch.unique(spec.primary_key, keep="last", maintain_order=True)
            cursor.adbc_ingest("stage", unique.to_arrow(), mode="create", temporary=True)
            cursor.execute(upsert)
            cursor.execute("DROP TABLE temp.stage")
            cursor.execute("COMMIT")
