"""What is particular about SQL Server; test_conformance.py has what every kind of database has to do.

What is written for SQL Server is executed by PostgreSQL; see `lpm_stream_tests.tsql`.
"""

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from lpm_stream import mssql
from lpm_stream.delivery import mssql as kind
from lpm_stream.delivery import mssql_bulk
from lpm_stream.delivery.database import open_database
from lpm_stream.delivery.mssql import MssqlDatabase, MssqlTransaction
from lpm_stream.delivery.mssql_rows import as_arrow, as_json
from lpm_stream.delivery.mssql_tables import MssqlTables
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LpmStreamError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.mssql import MssqlError
from lpm_stream_tests.delivery.databases import amounts, changes, merge, query, run, store, watermark
from lpm_stream_tests.delivery.test_conformance import DECIMALS, DIGITS, decimals_of, priced, with_decimals
from lpm_stream_tests.example import SPEC
from lpm_stream_tests.tsql import driver
from lpm_stream_tests.tsql.read import read

STAGED = "SELECT COUNT(*) FROM _lpm_upserts_orders"
KEYS = [str(number) for number in range(20)]


@pytest.fixture
def url(tsql_url: str) -> sa.URL:
    return sa.make_url(tsql_url)


@pytest.fixture
def database(url: sa.URL) -> Iterator[MssqlDatabase]:
    opened = MssqlDatabase(SPEC, "A", url)
    yield opened
    opened.close()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has few rows copied in bulk; the tables that were copied into."""
    monkeypatch.setattr(kind, "BULK_ROWS", 10)
    tables: list[str] = []
    original = driver.Cursor.bulkcopy_arrow

    def noted(self: driver.Cursor, table: str, rows: pa.Table, **options: Any) -> None:
        tables.append(table)
        original(self, table, rows, **options)

    monkeypatch.setattr(driver.Cursor, "bulkcopy_arrow", noted)
    return tables


def test_many_rows_are_copied_in_bulk_and_nothing_of_them_stays(database, copied):
    merge(database, changes("insert", *KEYS, "a "), 1)
    merge(database, changes("update_postimage", *KEYS[:10], amount=2), 2)
    merge(database, changes("update_postimage", *KEYS[:10], amount=3), 1)
    merge(database, changes("delete", *KEYS[5:], "a"), 3)
    assert amounts(database) == dict.fromkeys(KEYS[:5], 2) | {"a ": 1}
    assert copied == ["_lpm_upserts_orders"] * 3 + ["_lpm_deletes_orders"]
    assert query(database, STAGED) == [(0,)]
    assert query(database, "SELECT COUNT(*) FROM _lpm_deletes_orders") == [(0,)]


def test_decimals_are_copied_in_bulk_as_they_are(url, copied):
    with closing(MssqlDatabase(with_decimals(**DIGITS), "A", url)) as database:
        rows = priced(*DECIMALS, **DIGITS)
        merge(database, rows, 1)
        assert decimals_of(database, *DIGITS) == rows.sort("id").select(pl.col(*DIGITS).cast(pl.String)).rows()
    assert copied == ["_lpm_upserts_orders"]


def test_a_bulk_of_which_a_row_is_refused_leaves_nothing(database, copied):
    rows = pl.concat([changes("insert", *KEYS), changes("insert", "x", company="B")])
    with pytest.raises(RowFaultError, match="check constraint"):
        merge(database, rows, 1)
    assert amounts(database) == {}
    assert query(database, STAGED) == [(0,)]
    merge(database, rows.head(20), 1)
    assert len(amounts(database)) == 20


def test_what_dead_workers_have_staged_is_not_taken_and_goes(url, database, copied):
    merge(database, changes("insert", *KEYS), 1)
    dead = (
        "INSERT INTO _lpm_upserts_orders (_lpm_batch, id, customer, _commit_version) VALUES ('dead', 'x', 'A', 9)"
    )
    run(database, dead)
    merge(database, changes("insert", *KEYS, amount=2), 2)
    assert amounts(database) == dict.fromkeys(KEYS, 2)
    assert query(database, STAGED) == [(0,)]
    run(database, dead)
    with closing(MssqlDatabase(SPEC, "A", url)) as again:
        assert query(again, STAGED) == [(0,)]


def test_a_staging_table_follows_new_columns(database, copied):
    merge(database, changes("insert", *KEYS), 1)
    merge(database, changes("insert", *KEYS).with_columns(extra=pl.lit(6)), 2)
    assert len(copied) == 1  # the table is being altered: another connection would wait
    merge(database, changes("insert", *KEYS).with_columns(extra=pl.lit(7)), 3)
    assert query(database, "SELECT DISTINCT extra FROM orders") == [(7,)]
    assert len(copied) == 2


def test_where_bulk_copy_does_not_work_it_is_done_without(url, database, copied, monkeypatch, caplog):
    def refused(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("no such right; the row was SECRET")

    monkeypatch.setattr(driver.Cursor, "bulkcopy_arrow", refused)
    for version in (1, 2):
        with caplog.at_level(logging.WARNING):
            merge(database, changes("insert", *KEYS, amount=version), version)
    assert amounts(database) == dict.fromkeys(KEYS, 2)
    assert [record.message for record in caplog.records] == [
        f"{mssql.shown(url)}: bulk copy does not work, going on without, slower"
    ]


def test_bulk_copy_is_tried_again_after_a_pause(database, copied, monkeypatch):
    def refused(*_args: Any, **_options: Any) -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(mssql_bulk, "_PAUSE_SECONDS", -1)
    with monkeypatch.context() as down:
        down.setattr(driver.Cursor, "bulkcopy_arrow", refused)
        merge(database, changes("insert", *KEYS), 1)
    merge(database, changes("insert", *KEYS, amount=2), 2)
    assert amounts(database) == dict.fromkeys(KEYS, 2)
    assert copied == ["_lpm_upserts_orders"]


@pytest.mark.parametrize("tsql_url", ["pyodbc"], indirect=True)
def test_a_driver_without_bulk_copy_does_without_staging(database, monkeypatch, caplog):
    monkeypatch.setattr(kind, "BULK_ROWS", 10)
    merge(database, changes("insert", *KEYS), 1)
    merge(database, changes("delete", *KEYS[1:]), 2)
    assert amounts(database) == {"0": 1}
    with pytest.raises(TargetFaultError, match="_lpm_upserts_orders"):
        query(database, STAGED)
    assert not caplog.records


@pytest.mark.parametrize("limit", ["_JSON_ROWS", "_JSON_BYTES"])
def test_many_rows_go_in_several_statements(database, monkeypatch, limit):
    monkeypatch.setattr(kind, limit, 7)
    merge(database, changes("insert", *KEYS), 1)
    merge(database, changes("delete", *KEYS[1:]), 2)
    assert amounts(database) == {"0": 1}


def test_keys_that_differ_by_blanks_at_their_end_are_two(database):
    merge(database, changes("insert", "a", "a ", "a  "), 1)
    merge(database, changes("update_postimage", "a ", amount=5), 2)
    merge(database, changes("delete", "a  "), 2)
    assert amounts(database) == {"a": 1, "a ": 5}


@pytest.mark.parametrize("key", ["k" * 80, "\U0001f691" * 40])
def test_a_key_as_long_as_the_contract_has_it_fits(database, key):
    merge(database, changes("insert", key), 1)
    assert amounts(database) == {key: 1}


def test_a_key_that_is_too_long_is_a_fault_of_its_row_and_never_another_one(database):
    merge(database, changes("insert", "k" * 80), 1)
    merge(database, changes("delete", "k" * 81), 2)
    with pytest.raises(RowFaultError, match="too long"):
        merge(database, changes("update_postimage", "k" * 81), 2)
    assert amounts(database) == {"k" * 80: 1}


@pytest.mark.parametrize(
    ("column", "older"), [("amount", "int"), ("weight", "real"), ("note", "nvarchar(40)"), ("count", "smallint")]
)
def test_a_column_that_the_contract_widens_is_widened(url, database, column, older):
    merge(database, changes("insert", "1", amount=7, count=7, weight=0.5, note="7"), 1)
    run(database, f"ALTER TABLE [orders] ALTER COLUMN [{column}] {older} NULL")
    before = query(database, f"SELECT {column} FROM orders")
    database.close()
    with closing(MssqlDatabase(SPEC, "A", url)) as again:
        assert query(again, f"SELECT {column} FROM orders") == before
        columns = {
            name: (kind, length) for name, kind, length, *_ in query(again, MssqlTables.select_columns("orders"))
        }
        expected = {"amount": "bigint", "weight": "float", "note": "nvarchar", "count": "int"}[column]
        assert columns[column][0] == expected
        assert columns["note"][1] == 2_000


def test_a_key_that_the_contract_widens_needs_a_new_table(url, database):
    database.close()
    columns = tuple(
        column.model_copy(update={"max_length": 50}) if column.name == "id" else column for column in SPEC.columns
    )
    with (
        closing(MssqlDatabase(SPEC.model_copy(update={"columns": columns}), "A", url)) as again,
        pytest.raises(TargetFaultError, match=r"column id of the key is nvarchar\(80\).* --replace"),
    ):
        merge(again, changes("insert", "1"), 1)


def test_a_column_that_may_be_null_now_may_be_null_in_the_table(url, database):
    run(database, "ALTER TABLE [orders] ALTER COLUMN [note] nvarchar(2000) NOT NULL")
    database.close()
    with closing(MssqlDatabase(SPEC, "A", url)) as again:
        merge(again, changes("insert", "1", note=None), 1)
        assert amounts(again) == {"1": 1}


def test_a_failed_statement_cannot_be_committed_by_whoever_swallows_its_error(database):
    def work() -> None:
        with database.transaction() as transaction:
            transaction.store(Watermark(1))
            with pytest.raises(RowFaultError):
                transaction.merge(
                    changes("insert", "1", company="B").with_columns(pl.lit(1, pl.Int64).alias(COMMIT_VERSION))
                )

    with pytest.raises(TargetFaultError, match="a statement of the transaction had failed"):
        work()
    assert watermark(database) == Watermark()


@pytest.mark.parametrize("tsql_url", ["mssqlpython", "pyodbc"], indirect=True)
def test_a_connection_that_is_cut_is_a_fault_of_the_database_and_leaves_nothing(url, database, postgresql_server):
    def work() -> None:
        with database.transaction() as transaction:
            transaction.merge(changes("insert", "1").with_columns(pl.lit(1, pl.Int64).alias(COMMIT_VERSION)))
            transaction.store(Watermark(1))
            postgresql_server.run(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
            )

    with pytest.raises(TargetFaultError):
        work()
    with closing(MssqlDatabase(SPEC, "A", url)) as again:
        assert amounts(again) == {}
        assert watermark(again) == Watermark()


class Recorded:
    """A connection on which rows fail as they are told to; what it was asked to do."""

    def __init__(self, number: int, text: str) -> None:
        self.number, self.text = number, text
        self.asked: list[str] = []

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self.asked.append(statement)
        if "INFORMATION_SCHEMA.COLUMNS" in statement:
            tables = MssqlTables(SPEC, "A")
            stored = {one.name: tables.stored_type(one) for one in SPEC.columns} | {COMMIT_VERSION: "bigint"}
            return [(name, *_parts(kind), 0, 0) for name, kind in stored.items()]
        return [(self.number, self.text)] if statement.startswith("BEGIN TRY") else []


def _parts(kind: str) -> tuple[str, int, int, None, None]:
    name, _, size = kind.rstrip(")").partition("(")
    number = int(size) if size.isdigit() else -1
    return name, number, number, None, None


@pytest.mark.parametrize(
    ("number", "error"),
    [
        *(
            (number, RowFaultError)
            for number in (220, 515, 547, 1946, 2601, 2627, 2628, 8115, 8152, 50_000, 60_000)
        ),
        *(
            (number, TargetFaultError)
            for number in (1205, 1222, 1105, 9002, 40501, 40613, 10928, 10929, 49918, 40197)
        ),
    ],
)
def test_what_a_value_brings_about_is_told_from_what_the_database_does(number, error):
    secret = "Violation. The duplicate key value is (SECRET)."
    connection: Any = Recorded(number, secret)
    tables = MssqlTables(SPEC, "A")
    transaction = MssqlTransaction(SPEC, tables, "place", connection, misfit=None, bulk=None, generation=0)
    rows = pl.concat([changes("insert", "1"), changes("delete", "2")])
    with pytest.raises(error) as caught:
        transaction.merge(rows.with_columns(pl.lit(1, pl.Int64).alias(COMMIT_VERSION)))
    assert "SECRET" not in str(caught.value)
    assert len([asked for asked in connection.asked if asked.startswith("BEGIN TRY")]) == 1
    with pytest.raises(TargetFaultError, match="had failed"):
        transaction.require_whole()


def test_rows_as_json_and_as_arrow():
    rows = changes("insert", "1", note='a "q" \U0001f691').select(
        "id", "ordered_at", "note", "paid", "due", "weight"
    )
    assert as_json(rows) == (
        '[{"c0":"1","c1":"2026-01-01T00:00:00.000000","c2":"a \\"q\\" \U0001f691","c3":true,'
        '"c4":"2026-01-01","c5":0.0}]'
    )
    table = as_arrow(rows, "b")
    assert table.schema.types == [
        pa.string(),
        pa.timestamp("us"),
        pa.string(),
        pa.bool_(),
        pa.date32(),
        pa.float64(),
        pa.string(),
    ]


QUOTED = {
    "[23000] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Violation of PRIMARY KEY constraint 'x'. "
    "The duplicate key value is (SEC)RET). (2627) (SQLExecDirectW)": "Violation of PRIMARY KEY constraint 'x'.",
    "Driver Error: Syntax error; DDBC Error: [Microsoft][SQL Server]String or binary data would be truncated in "
    "table 'd', column 'c'. Truncated value: 'SECRET'.": (
        "String or binary data would be truncated in table 'd', column 'c'."
    ),
    "Conversion failed when converting the nvarchar value 'SECRET' to data type int.": (
        "Conversion failed when converting the nvarchar value to data type int."
    ),
    "The conversion of the nvarchar value 'SECRET' overflowed an int column.": (
        "The conversion of the nvarchar value overflowed an int column."
    ),
    "Arithmetic overflow error for data type tinyint, value = 4711.": (
        "Arithmetic overflow error for data type tinyint."
    ),
    "[01000] [unixODBC][Driver Manager]Can't open lib 'ODBC Driver 18 for SQL Server' : file not found (0) "
    "(SQLDriverConnect)": "Can't open lib 'ODBC Driver 18 for SQL Server' : file not found",
    "[42S02] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Invalid object name [order]. (208) "
    "(SQLExecDirectW); [42000] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]And more. (8180)": (
        "Invalid object name [order]. (208); And more. (8180)"
    ),
}


@pytest.mark.parametrize(("text", "said"), QUOTED.items())
def test_what_the_server_says_is_told_without_the_row(text, said):
    assert mssql.said(text) == said


def test_the_connection_verifies_the_server_unless_told_otherwise():
    url = sa.make_url("mssql+pyodbc://me:a%7Db%3B@db.example:1444/lpm%3B1")
    assert mssql.connection_string(url) == (
        "Encrypt={yes};TrustServerCertificate={no};Driver={ODBC Driver 18 for SQL Server};APP={lpm_stream};"
        "Server={db.example,1444};Database={lpm;1};UID={me};PWD={a}}b;};"
    )
    entra = sa.make_url("mssql+mssqlpython://db.example/lpm?Authentication=ActiveDirectoryDefault&encrypt=strict")
    assert mssql.connection_string(entra) == (
        "TrustServerCertificate={no};Authentication={ActiveDirectoryDefault};encrypt={strict};"
        "Server={db.example};Database={lpm};"
    )


@pytest.mark.parametrize(
    ("url", "module", "said"),
    [
        ("mssql+mssqlpython://host/db", "mssql_python", r"pip install 'lpm-stream\[mssql\]'"),
        ("mssql+pyodbc://host/db", "pyodbc", "unixodbc .* or use mssql\\+mssqlpython://"),
        ("mssql://host/db", "", "does not say which driver"),
    ],
)
def test_without_the_driver_it_is_said_what_to_install(monkeypatch, url, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(LpmStreamError, match=said):
        open_database(SPEC, "A", url)


def test_a_server_that_is_down_is_a_fault_of_the_database_and_the_password_is_not_shown(monkeypatch):
    """Likewise if the driver lacks a library of the system."""
    monkeypatch.setattr(mssql, "_LOGIN_SECONDS", 1)
    url = "mssql+mssqlpython://me:hush@127.0.0.1:1/d?ConnectRetryCount=0"
    with pytest.raises(
        TargetFaultError, match=r"database mssql\+mssqlpython://me:\*\*\*@127\.0\.0\.1:1/d: "
    ) as caught:
        open_database(SPEC, "A", url)
    assert "hush" not in str(caught.value)


def test_a_name_that_is_no_name_is_refused():
    with pytest.raises(TargetFaultError, match="names no database"):
        open_database(SPEC, "A", "mssql+mssqlpython://host")
    with pytest.raises(TargetFaultError, match="at most 128 characters"):
        open_database(SPEC, "A", f"mssql+mssqlpython://host/{'x' * 129}")


def test_a_database_is_made_where_there_is_none(url, postgresql_server):
    place = url.set(database=f"{url.database}_new")
    with closing(MssqlDatabase(SPEC, "A", place)) as made:
        merge(made, changes("insert", "1"), 1)
        assert amounts(made) == {"1": 1}
    mssql.create(place)  # as somebody who was slower would
    postgresql_server.run(f"DROP DATABASE {place.database}")


def test_who_may_read_the_table_may_read_its_replacement(url, database, postgresql_server):
    name = "mssql_reader"
    postgresql_server.run(f"CREATE ROLE {name}")
    run(database, f"GRANT SELECT ON [orders] TO [{name}] WITH GRANT OPTION")
    before = query(database, MssqlTables(SPEC, "A").select_grants)
    assert before == [("W", "SELECT", name)]
    with database.transaction() as transaction:
        transaction.create_replacement()
        transaction.swap()
    assert query(database, MssqlTables(SPEC, "A").select_grants) == before
    postgresql_server.run(f"DROP OWNED BY {name}", str(url.database))
    postgresql_server.run(f"DROP ROLE {name}")


def test_what_the_customer_had_on_a_table_that_is_replaced_is_named(url, database, caplog, postgresql_server):
    postgresql_server.run(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        str(url.database),
    )
    postgresql_server.run(
        "CREATE TRIGGER mine BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION nothing()", str(url.database)
    )
    for _ in range(2):
        with database.transaction() as transaction:
            transaction.create_replacement()
            transaction.swap()
    assert [one.message for one in caplog.records if "built anew" in one.message] == [
        f"{transaction.place}: table orders is built anew, without its trigger mine"
    ]


def test_a_database_that_cannot_be_made_is_said_so(url, monkeypatch):
    def refused(_url: sa.URL) -> None:
        raise MssqlError("CREATE DATABASE permission denied in database 'master'.")

    monkeypatch.setattr(mssql, "create", refused)
    with pytest.raises(
        TargetFaultError, match=r"does not exist and cannot be created .*CREATE DATABASE \[nowhere\]"
    ):
        MssqlDatabase(SPEC, "A", url.set(database="nowhere"))


def test_the_watermark_is_one_row(database):
    store(database, Watermark(version=1))
    store(database, Watermark(version=2))
    assert query(database, "SELECT feed, company, version FROM _lpm_watermark") == [("orders", "A", 2)]


def test_floats_that_have_no_word_are_faults_of_their_rows(database):
    rows = pl.concat([changes("insert", "1"), changes("insert", "2", weight=-float("inf"))])
    assert CHANGE_TYPE in rows.columns
    with pytest.raises(RowFaultError, match="weight"):
        merge(database, rows, 1)
    merge(database, changes("delete", "1", weight=float("inf")), 1)


def test_what_is_executed_besides_the_statements_of_the_tables(url, database, monkeypatch, snapshot):
    """For those see `test_mssql_tables`; here is what goes around them, and makes a database."""
    executed: list[str] = []
    execute = driver.Cursor.execute

    def noted(self: driver.Cursor, statement: str, values: Any = ()) -> None:
        executed.append(statement)
        execute(self, statement, values)

    monkeypatch.setattr(driver.Cursor, "execute", noted)
    mssql.create(url)
    merge(database, changes("insert", "1"), 1)
    own = re.compile(r"(MERGE INTO|UPDATE|SELECT COLUMN_NAME|SELECT generation) .*?(?= SELECT 0, |$)", re.DOTALL)
    shown = {own.sub(r"\1 ...", one).replace(url.database or "", "DATABASE_NAME") for one in executed}
    for one in executed:
        assert read(one), one
    assert sorted(shown) == snapshot
