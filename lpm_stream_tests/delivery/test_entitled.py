"""What a company may not get: kept out of its table, dropped from it, and granted later."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import adbc_driver_sqlite.dbapi as adbc
import polars as pl
import pytest
import sqlalchemy as sa

from lpm_stream.alerts import raised
from lpm_stream.alerts.incidents import Silence, silence
from lpm_stream.alerts.run import run as look_for_alerts
from lpm_stream.change_company import change, confirm, drop_data, finish, unfinished
from lpm_stream.checks.run import run_checks
from lpm_stream.control import entries, parking, registry, tables
from lpm_stream.control.registry_file import Change
from lpm_stream.control.tables import companies
from lpm_stream.control.tidy import tidy_ledger
from lpm_stream.delivery import sqlite
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.database import CompanyDatabase, Transaction, open_database
from lpm_stream.delivery.entitled import EntitlementsChangedError
from lpm_stream.errors import LpmStreamError, TargetFaultError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.delivery.conftest import Place
from lpm_stream_tests.delivery.databases import changes, merge, query, run
from lpm_stream_tests.example import SPEC, append, create_table, deliver, orders, publish, stored

_COLUMNS = [column.model_dump() | ({"group": "notes"} if column.name == "note" else {}) for column in SPEC.columns]
GROUPED = FeedSpec.model_validate(SPEC.model_dump() | {"columns": _COLUMNS})


@pytest.fixture
def grouped(settings):
    """A stream whose column `note` is of a group of its own; company A may get base only, B everything."""
    create_table(settings.table_location(SPEC.source_table))
    with open_stream(settings, GROUPED) as stream:
        registry.register(stream.store, "A")
        registry.register(stream.store, "B")
        grant(stream, "A", "base")
        append(stream.table, orders(["1", "2"], ["A", "B"]))
        publish(stream)
        deliver(stream)
        yield stream


def grant(stream: Stream, company: str, *groups: str) -> list[str]:
    before = entries.read(stream.store, company).company
    wanted = Change(before, before.model_copy(update={"groups": groups}))
    return change([stream], wanted, go_on=lambda: True, tell=lambda _rows, _total: None)


def notes(stream: Stream, company: str) -> dict[str, object]:
    return {key: row.get("note", "no column") for key, row in stored(stream, company).items()}


def test_a_company_gets_what_it_is_entitled_to(grouped):
    assert notes(grouped, "A") == {"1": "no column"}
    assert notes(grouped, "B") == {"2": "note of 2"}


def test_a_grant_takes_effect_on_what_is_stored_and_on_the_stream(grouped):
    done = grant(grouped, "A", "base", "notes")
    assert "1 rows loaded" in done[1]
    assert notes(grouped, "A") == {"1": "note of 1"}
    append(grouped.table, orders(["3"], "A"))
    publish(grouped)
    deliver(grouped)
    assert notes(grouped, "A") == {"1": "note of 1", "3": "note of 3"}


def test_a_revocation_takes_effect_on_what_is_stored_and_on_the_stream(grouped):
    grant(grouped, "B", "base")
    assert notes(grouped, "B") == {"2": "no column"}
    append(grouped.table, orders(["3"], "B"))
    publish(grouped)
    deliver(grouped)
    assert notes(grouped, "B") == {"2": "no column", "3": "no column"}


def left_in_files(stream: Stream, company: str, text: bytes) -> int:
    """How often a text is in the files of a company's SQLite database, be it where a page is free."""
    return sum(
        path.read_bytes().count(text) for path in (stream.settings.home / "companies").glob(f"{company}.db*")
    )


def fill_twice(stream: Stream, company: str) -> int:
    """Gives a company 1,000 rows, and then again: updates, too, leave what was there before in free space."""
    keys = [str(number) for number in range(100, 1_100)]
    for _ in range(2):
        append(stream.table, orders(keys, company))
    publish(stream)
    deliver(stream)
    return len(keys)


def test_what_was_dropped_cannot_be_read_in_the_file_either(grouped):
    rows = fill_twice(grouped, "B")
    assert left_in_files(grouped, "B", b"note of") >= rows
    grant(grouped, "B", "base")
    assert len(notes(grouped, "B")) == rows + 1
    assert left_in_files(grouped, "B", b"note of") == 0
    entries.set_state(grouped.store, "B", "offboarding")
    drop_data([grouped], "B")
    assert left_in_files(grouped, "B", b"2026-") == 0


@contextmanager
def reading(stream: Stream, company: str) -> Iterator[None]:
    """A reader that goes on and on in a company's SQLite database."""
    path = str(stream.settings.home / "companies" / f"{company}.db")
    with closing(adbc.connect(path, autocommit=True)) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM sqlite_schema")
        cursor.fetchall()
        yield
        cursor.execute("COMMIT")


@pytest.mark.parametrize("mended_by", ["finish", "deliverer"])
def test_a_revocation_beside_a_reader_is_finished_only_once_nothing_is_left(grouped, monkeypatch, mended_by):
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 20", *sqlite._PRAGMAS[1:]))
    fill_twice(grouped, "B")
    with reading(grouped, "B"), pytest.raises(TargetFaultError, match=r"still hold it \(somebody is reading"):
        grant(grouped, "B", "base")
    assert left_in_files(grouped, "B", b"note of") > 0
    assert list(unfinished([grouped])) == ["B"]
    if mended_by == "deliverer":
        append(grouped.table, orders(["3"], "B"))
        publish(grouped)
        deliver(grouped)
    else:
        company = entries.read(grouped.store, "B").company
        finish([grouped], company, go_on=lambda: True, tell=lambda _rows, _total: None)
        assert unfinished([grouped]) == {}
    assert left_in_files(grouped, "B", b"note of") == 0
    assert tables_of(grouped, "B") == {"orders", "_lpm_watermark", "_lpm_entitlement"}


def test_data_that_was_dropped_beside_a_reader_is_dropped_again(grouped, monkeypatch):
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 20", *sqlite._PRAGMAS[1:]))
    fill_twice(grouped, "B")
    entries.set_state(grouped.store, "B", "offboarding")
    with reading(grouped, "B"):
        for _ in range(2):
            with pytest.raises(TargetFaultError, match="somebody is reading it"):
                drop_data([grouped], "B")
            assert left_in_files(grouped, "B", b"note of") > 0
    drop_data([grouped], "B")
    assert left_in_files(grouped, "B", b"note of") == 0


def test_a_revocation_that_was_not_finished_is_by_whoever_opens_the_database_next(grouped):
    before = entries.read(grouped.store, "B").company
    with grouped.store.write() as connection:
        entries.change(connection, before, before.model_copy(update={"groups": ("base",)}))
    append(grouped.table, orders(["3"], "B"))
    publish(grouped)
    deliver(grouped)
    assert notes(grouped, "B") == {"2": "no column", "3": "no column"}


@pytest.mark.parametrize("state", ["active", "paused"])
def test_a_revocation_that_was_not_finished_is_known_until_it_is(grouped, state):
    entries.set_state(grouped.store, "B", state)
    before = entries.read(grouped.store, "B").company
    after = before.model_copy(update={"groups": ("base",)})
    database = grouped.settings.home / "companies" / "B.db"
    database.rename(database.with_suffix(".away"))
    database.mkdir()  # so that it cannot be opened
    with pytest.raises(LpmStreamError):
        change([grouped], Change(before, after), go_on=lambda: True, tell=lambda _rows, _total: None)
    assert list(unfinished([grouped])) == ["B"]
    database.rmdir()
    database.with_suffix(".away").rename(database)
    finish([grouped], after, go_on=lambda: True, tell=lambda _rows, _total: None)
    assert notes(grouped, "B") == {"2": "no column"}
    assert unfinished([grouped]) == {}


@pytest.mark.parametrize("state", ["active", "paused"])
def test_a_column_that_is_moved_to_another_group_goes_from_those_who_are_idle_too(stream, state):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    deliver(stream)
    grant(stream, "A", "base")
    entries.set_state(stream.store, "A", state)
    with open_stream(stream.settings, GROUPED) as moved:
        company = entries.read(moved.store, "A").company
        assert unfinished([moved]) == {}
        gone = company.model_copy(update={"id": "GONE", "state": "offboarding"})
        assert list(unfinished([moved], [company, gone])) == ["A"]
        finish([moved], company, go_on=lambda: True, tell=lambda _rows, _total: None)
        assert notes(moved, "A") == {"1": "no column"}


def test_a_grant_that_was_not_finished_is_known_until_it_is_loaded(grouped):
    before = entries.read(grouped.store, "A").company
    after = before.model_copy(update={"groups": ("all",)})
    with grouped.store.write() as connection:
        entries.change(connection, before, after)
    assert registry.to_load(grouped.store, "orders") == ["A"]
    assert unfinished([grouped]) == {"A": "load what it was granted"}
    finish([grouped], after, go_on=lambda: True, tell=lambda _rows, _total: None)
    assert registry.to_load(grouped.store, "orders") == []
    assert notes(grouped, "A") == {"1": "note of 1"}


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_backfill_brings_nothing_that_is_withheld(grouped, rebuild):
    backfill(grouped, "A", rebuild=rebuild, go_on=lambda: True, tell=lambda _rows, _total: None)
    assert notes(grouped, "A") == {"1": "no column"}


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_revocation_during_a_backfill_is_not_undone_by_it(grouped, rebuild):
    revoked: list[str] = []

    def go_on() -> bool:
        revoked.extend([] if revoked else grant(grouped, "B", "base"))
        return True

    with pytest.raises(LpmStreamError, match=r"just changed|meanwhile"):
        backfill(grouped, "B", rebuild=rebuild, go_on=go_on, tell=lambda _rows, _total: None)
    assert notes(grouped, "B") == {"2": "no column"}
    assert "_lpm_new_orders" not in tables_of(grouped, "B")


@pytest.mark.parametrize("mended_by", ["deliverer", "backfill"])
def test_nothing_stays_of_a_rebuild_that_was_killed(grouped, mended_by, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr("lpm_stream.delivery.backfill._Backfill._finish", _killed)
        killed.setattr("lpm_stream.delivery.hold.Loading._release", _killed)
        with pytest.raises(KeyboardInterrupt):
            backfill(grouped, "B", rebuild=True, go_on=lambda: True, tell=lambda _rows, _total: None)
    assert "_lpm_new_orders" in tables_of(grouped, "B")
    append(grouped.table, orders(["3"], "B"))
    publish(grouped)
    if mended_by == "backfill":
        backfill(grouped, "B", rebuild=False, go_on=lambda: True, tell=lambda _rows, _total: None)
    deliver(grouped)
    assert tables_of(grouped, "B") == {"orders", "_lpm_watermark", "_lpm_entitlement"}
    assert notes(grouped, "B") == {"2": "note of 2", "3": "note of 3"}


def _killed(*_args: object) -> None:
    raise KeyboardInterrupt


def tables_of(stream: Stream, company: str) -> set[str]:
    with closing(sqlite3.connect(stream.settings.home / "companies" / f"{company}.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


@pytest.mark.parametrize(
    "said", [{"database": "sqlite:///{home}/other.db"}, {"feeds": ("events",)}], ids=["database", "feeds"]
)
def test_what_stays_behind_is_told(grouped, said):
    said = {
        name: value.format(home=grouped.settings.home) if name == "database" else value
        for name, value in said.items()
    }
    before = entries.read(grouped.store, "B").company
    wanted = Change(before, before.model_copy(update=said))
    *_, told = change([grouped], wanted, go_on=lambda: True, tell=lambda _rows, _total: None)
    assert re.fullmatch(r"table orders in sqlite:.*B\.db keeps its rows and gets no more: drop it if .*", told)


@pytest.mark.parametrize("mended_by", ["confirm", "change"])
def test_a_registry_that_is_older_than_a_database_says_so_and_is_mended(grouped, mended_by):
    mine = sa.select(companies).where(companies.c.company == "A")
    with grouped.store.read() as connection:
        older = connection.execute(mine).mappings().one()
    grant(grouped, "A", "base", "notes")
    with grouped.store.write() as connection:
        connection.execute(companies.update().where(companies.c.company == "A").values(**older))
    append(grouped.table, orders(["3"], "A"))
    publish(grouped)
    deliver(grouped)
    assert "lpm-stream companies confirm" in parking.read_parked(grouped.store, "orders")["A"].reason
    if mended_by == "confirm":
        company = entries.read(grouped.store, "A").company
        confirm([grouped], company, go_on=lambda: True, tell=lambda _rows, _total: None)
        expected = "no column"
    else:
        grant(grouped, "A", "base", "notes")
        expected = "note of {}"
    assert notes(grouped, "A") == {key: expected.format(key) for key in ("1", "3")}
    assert unfinished([grouped]) == {}
    deliver(grouped)
    assert parking.read_parked(grouped.store, "orders") == {}


def test_who_saw_something_else_cannot_change_it(grouped):
    before = entries.read(grouped.store, "A").company
    grant(grouped, "A", "base", "notes")
    with (
        grouped.store.write() as connection,
        pytest.raises(LpmStreamError, match="changed by somebody else meanwhile"),
    ):
        entries.change(connection, before, before)


def test_data_is_dropped_of_companies_that_are_not_served_only(grouped):
    with pytest.raises(LpmStreamError, match="is still served"):
        drop_data([grouped], "A")
    entries.set_state(grouped.store, "A", "offboarding")
    drop_data([grouped], "A")
    url = f"sqlite:///{grouped.settings.home}/companies/A.db"
    with closing(
        open_database(GROUPED, "A", url, Entitlement(("all",), entries.new_generation() + 1))
    ) as database:
        assert query(database, "SELECT count(*) FROM orders") == [(0,)]


def rows_of(stream: Stream, company: str) -> set[str]:
    """The tables of the control store that have something of a company."""
    with stream.store.read() as connection:
        return {
            table.name
            for table in tables.metadata.sorted_tables
            if "company" in table.c
            and connection.execute(sa.select(table).where(table.c.company == company)).first()
        }


def test_nothing_but_the_audit_is_kept_of_a_company_whose_data_was_dropped(grouped):
    raised.check_came_out(grouped.store, "orders", "fresh", "B", "no delivery")
    look_for_alerts(replace(grouped, settings=grouped.settings.model_copy(update={"alert_urls": "env:NOWHERE"})))
    silence(grouped.store, "orders", Silence(None, "B", datetime.now(UTC) + timedelta(hours=1)))
    tidy_ledger(grouped.store, timedelta(days=1), datetime.now(UTC) + timedelta(days=3))
    entries.set_state(grouped.store, "B", "offboarding")
    append(grouped.table, orders(["3"], "B"))
    publish(grouped)
    kept = {"incidents", "ledger_days", "ledger_totals", "silences", "unknown_companies"}
    assert kept <= rows_of(grouped, "B")
    drop_data([grouped], "B")
    assert rows_of(grouped, "B") == {"audit", "companies"}
    with grouped.store.read() as connection:
        assert connection.execute(sa.select(tables.notifications)).all() == []
    assert rows_of(grouped, "A") >= {"ledger_totals", "deliveries"}


def opened(place: Place, generation: int, *groups: str) -> closing[CompanyDatabase]:
    return closing(open_database(GROUPED, "A", place.url, Entitlement(groups, generation)))


def has_note(database: CompanyDatabase) -> bool:
    return "note" in {str(name) for name, *_ in _described(database)}


def _described(database: CompanyDatabase) -> list[tuple[Any, ...]]:
    if "Sqlite" in type(database).__name__:
        return query(database, "SELECT name FROM pragma_table_info('orders')")
    return query(database, "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'orders'")


def test_columns_follow_the_entitlements(place):
    with opened(place, 0, "all") as database:
        merge(database, changes("insert", "1"), 1)
        assert has_note(database)
    with opened(place, 1, "base") as database:
        assert not has_note(database)
        merge(database, changes("insert", "2"), 2)
        assert query(database, "SELECT id FROM orders ORDER BY id") == [("1",), ("2",)]
    with opened(place, 2, "notes") as database:
        merge(database, changes("insert", "3"), 3)
        assert query(database, "SELECT id, note FROM orders ORDER BY id") == [
            ("1", None),
            ("2", None),
            ("3", "note of 3"),
        ]


def test_an_older_view_cannot_open_it(place):
    with opened(place, 2, "base"):
        pass
    with pytest.raises(EntitlementsChangedError, match="have just changed"), opened(place, 1, "all"):
        pass


@pytest.mark.parametrize(("before", "after"), [("all", "base"), ("base", "all")])
def test_an_older_view_that_is_open_cannot_write(place, before, after):
    with opened(place, 1, before) as older:
        merge(older, changes("insert", "1"), 1)
        with opened(place, 2, after) as newer:
            with pytest.raises(EntitlementsChangedError):
                merge(older, changes("insert", "2"), 2)
            merge(newer, changes("insert", "3"), 3)
            assert query(newer, "SELECT id FROM orders ORDER BY id") == [("1",), ("3",)]


def test_a_replacement_has_no_withheld_column(place):
    with opened(place, 1, "base") as database:
        with database.transaction() as transaction:
            transaction.create_replacement()
            rows = changes("insert", "1").drop("_change_type")
            transaction.fill_replacement(rows.with_columns(_commit_version=1))
            transaction.swap()
        assert not has_note(database)
        assert query(database, "SELECT id FROM orders") == [("1",)]


_NEXT: dict[str, Callable[[Transaction, pl.DataFrame], None]] = {
    "nothing": lambda transaction, _rows: transaction.create_replacement(),
    "created": lambda transaction, rows: transaction.fill_replacement(rows),
    "filled": lambda transaction, _rows: transaction.swap(),
}


@pytest.mark.parametrize("reached", _NEXT)
def test_a_replacement_is_not_gone_on_with_once_the_entitlements_have_changed(place, reached):
    rows = changes("insert", "1").drop("_change_type").with_columns(_commit_version=1)
    with opened(place, 1, "all") as older:
        with older.transaction() as transaction:
            if reached != "nothing":
                transaction.create_replacement()
            if reached == "filled":
                transaction.fill_replacement(rows)
        with opened(place, 2, "base") as newer:
            with pytest.raises(EntitlementsChangedError), older.transaction() as transaction:
                _NEXT[reached](transaction, rows)
            assert not has_note(newer)


def test_what_a_killed_rebuild_has_left_goes_with_the_entitlement(place):
    with opened(place, 1, "all") as database, database.transaction() as transaction:
        transaction.create_replacement()
    with opened(place, 2, "base") as database, pytest.raises(TargetFaultError):
        query(database, "SELECT count(*) FROM _lpm_new_orders")


def test_a_rebuild_goes_on_while_the_database_is_opened_with_the_same_entitlements(place):
    with opened(place, 1, "base") as database:
        with database.transaction() as transaction:
            transaction.create_replacement()
        with opened(place, 1, "base"):
            pass
        assert query(database, "SELECT count(*) FROM _lpm_new_orders") == [(0,)]
        with database.transaction() as transaction:
            transaction.drop_replacement()
            transaction.drop_replacement()
        with pytest.raises(TargetFaultError):
            query(database, "SELECT count(*) FROM _lpm_new_orders")


def test_an_older_view_cannot_open_what_has_lost_its_table(place):
    with opened(place, 2, "base") as database:
        run(database, "DROP TABLE orders")
    with pytest.raises(EntitlementsChangedError), opened(place, 1, "all"):
        pass


def test_what_is_dropped_is_gone_and_can_come_again(place):
    with opened(place, 1, "all") as database:
        merge(database, changes("insert", "1"), 1)
        run(database, "CREATE TABLE other (x int)")
        with database.transaction() as transaction:
            transaction.drop()
    with opened(place, 2, "all") as database:
        assert query(database, "SELECT count(*) FROM orders") == [(0,)]
        assert query(database, "SELECT count(*) FROM other") == [(0,)]


def test_the_audit_knows_what_each_company_may_get(grouped):
    results = list(run_checks(grouped, None, ["complete_against_source"]))
    assert [(result.company, result.passed) for result in results] == [("A", True), ("B", True)]
    with closing(sqlite3.connect(grouped.settings.home / "companies" / "A.db")) as connection:
        connection.execute("ALTER TABLE orders ADD COLUMN note TEXT")
    [result] = run_checks(grouped, ["A"], ["complete_against_source"])
    assert not result.passed
    assert "columns it is not entitled to: note" in result.description
