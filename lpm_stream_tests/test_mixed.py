"""Companies in databases of different kinds, side by side, with the control store in PostgreSQL."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from lpm_stream.audit.run import audit
from lpm_stream.control import parking, quarantine, registry
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.database import open_database
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.amqp.server import EventHubsServer
from lpm_stream_tests.delivery.databases import run
from lpm_stream_tests.example import SPEC, append, create_table, deliver, orders, publish
from lpm_stream_tests.postgresql import Server


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql_server: Server) -> Iterator[Stream]:
    """A is in SQLite, B where the template says, and C in a server that is down."""
    with ExitStack() as stack:
        control, template = (stack.enter_context(postgresql_server.name()) for _ in range(2))
        postgresql_server.run(f"CREATE DATABASE {control}")
        url = postgresql_server.url("PLACE").render_as_string().replace("PLACE", template + "_{company}")
        monkeypatch.setenv("LPM_STREAM_CONTROL_URL", postgresql_server.url(control).render_as_string())
        monkeypatch.setenv("LPM_STREAM_DATABASE_TEMPLATE", url)
        settings = Settings.load(tmp_path)
        create_table(settings.table_location(SPEC.source_table))
        with open_stream(settings, SPEC) as opened:
            registry.register(opened.store, "A", f"sqlite:///{tmp_path}/A.db")
            registry.register(opened.store, "B")
            registry.register(opened.store, "C", "postgresql://me:hush@127.0.0.1:1/c")
            yield opened
        postgresql_server.run(f'DROP DATABASE IF EXISTS "{template}_B" WITH (FORCE)')


def test_each_company_gets_what_is_its_own_and_one_that_is_down_stops_nobody(
    stream: Stream, tmp_path: Path
) -> None:
    keys = [f"{company}{number}" for company in "ABC" for number in range(50)]
    append(stream.table, orders(keys, [key[0] for key in keys]))
    DeltaTable(stream.table).update(updates={"amount": "7"}, predicate="id LIKE '%3'")
    DeltaTable(stream.table).update(updates={"customer": "'B'"}, predicate="id = 'A9'")
    DeltaTable(stream.table).delete("id LIKE '%5'")
    append(stream.table, orders(["A new", "B new"], ["A", "B"]).with_columns(note=pl.lit("\U0001f691")))
    publish(stream)
    deliver(stream)
    urls = registry.database_urls(stream.store, stream.settings)
    report = audit(SPEC, stream.table, urls, scratch=tmp_path / "scratch")
    found = {one.company: (one.clean, one.counts.rows_in_database) for one in report.companies}
    assert found == {"A": (True, 45), "B": (True, 47), "C": (False, 0)}
    [(company, state)] = parking.read_parked(stream.store, SPEC.name).items()
    assert company == "C"
    assert "refused" in state.reason
    assert "hush" not in state.reason
    assert "hush" not in str(report)


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("company", ["A", "B"])
def test_a_company_is_loaded_from_the_table_whatever_its_database(
    stream: Stream, tmp_path: Path, company: str, rebuild: bool
) -> None:
    keys = [f"{name}{number}" for name in "AB" for number in range(30)]
    append(stream.table, orders(keys, [key[0] for key in keys]))
    publish(stream)
    deliver(stream)
    url = registry.database_urls(stream.store, stream.settings)[company]
    with closing(open_database(SPEC, company, url)) as database:
        run(database, "DELETE FROM orders WHERE id LIKE '%7'")
        run(database, "UPDATE orders SET amount = 666")
    done = backfill(stream, company, rebuild=rebuild, go_on=lambda: True, tell=lambda _rows, _total: None)
    assert (done.rows, done.refused, done.replaced) == (30, 0, rebuild)
    append(stream.table, orders(["new"], company))
    publish(stream)
    deliver(stream)
    report = audit(SPEC, stream.table, {company: url}, scratch=tmp_path / "scratch")
    assert [(one.clean, one.counts.rows_in_database) for one in report.companies] == [(True, 31)]


@pytest.mark.parametrize(
    ("rebuild", "tsql_url"),
    [(False, "mssqlpython"), (True, "mssqlpython"), (True, "pyodbc")],
    indirect=["tsql_url"],
)
def test_the_whole_way_into_sql_server(settings: Settings, tmp_path: Path, tsql_url: str, rebuild: bool) -> None:
    """As far as PostgreSQL can stand in for one: deliver, load anew, and audit."""
    create_table(settings.table_location(SPEC.source_table))
    with open_stream(settings, SPEC) as stream:
        registry.register(stream.store, "A", tsql_url)
        append(stream.table, orders([f"A{number}" for number in range(50)], "A"))
        DeltaTable(stream.table).update(updates={"amount": "7"}, predicate="id LIKE '%3'")
        DeltaTable(stream.table).delete("id LIKE '%5'")
        append(stream.table, orders(["odd", "odd "], "A", note="\U0001f691", weight=float("inf")))
        publish(stream)
        deliver(stream)
        assert quarantine.counts(stream.store, SPEC.name) == {"A": 2}
        DeltaTable(stream.table).update(updates={"weight": "1.5"}, predicate="id LIKE 'odd%'")
        publish(stream)
        deliver(stream)
        report = audit(SPEC, stream.table, {"A": tsql_url}, scratch=tmp_path / "scratch")
        assert [(one.clean, one.counts.rows_in_database) for one in report.companies] == [(True, 47)]
        with closing(open_database(SPEC, "A", tsql_url)) as database:
            run(database, "DELETE FROM orders WHERE id LIKE '%7'")
            run(database, "UPDATE orders SET amount = 666")
        done = backfill(stream, "A", rebuild=rebuild, go_on=lambda: True, tell=lambda _rows, _total: None)
        assert (done.rows, done.refused, done.replaced) == (47, 0, rebuild)
        report = audit(SPEC, stream.table, {"A": tsql_url}, scratch=tmp_path / "scratch")
        assert [(one.clean, one.counts.rows_in_database) for one in report.companies] == [(True, 47)]


def test_event_hubs_in_postgresql_and_sql_server_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgresql_server: Server, tsql_url: str
) -> None:
    """The latter as far as PostgreSQL can stand in for one."""
    with EventHubsServer() as server, postgresql_server.name() as name:
        postgresql_server.run(f"CREATE DATABASE {name}")
        monkeypatch.setenv("SECRET", server.connection_string)
        monkeypatch.setenv("LPM_STREAM_HUB_URL", "eventhubs:env:SECRET")
        settings = Settings.load(tmp_path)
        create_table(settings.table_location(SPEC.source_table))
        with open_stream(settings, SPEC) as stream:
            urls = {"A": postgresql_server.url(name).render_as_string(), "B": tsql_url}
            for company, url in urls.items():
                registry.register(stream.store, company, url)
            keys = [f"{company}{number}" for company in "AB" for number in range(50)]
            append(stream.table, orders(keys, [key[0] for key in keys]))
            DeltaTable(stream.table).update(updates={"customer": "'B'"}, predicate="id LIKE 'A%3'")
            DeltaTable(stream.table).delete("id LIKE '%5'")
            publish(stream)
            deliver(stream)
            report = audit(SPEC, stream.table, urls, scratch=tmp_path / "scratch")
    found = {one.company: (one.clean, one.counts.rows_in_database) for one in report.companies}
    assert found == {"A": (True, 40), "B": (True, 50)}
