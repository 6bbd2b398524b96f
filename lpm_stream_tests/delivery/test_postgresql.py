"""What is particular about PostgreSQL; test_conformance.py has what every kind of database has to do."""

import random
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import polars as pl
import pytest
import sqlalchemy as sa

from lpm_stream.delivery import postgresql as kind
from lpm_stream.delivery.database import open_database
from lpm_stream.delivery.postgresql import PostgresqlDatabase
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LpmStreamError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.settings import Settings
from lpm_stream_tests.delivery.databases import amounts, changes, merge, query, run, store, watermark
from lpm_stream_tests.example import SPEC
from lpm_stream_tests.postgresql import Server


@pytest.fixture
def url(postgresql_url: str) -> sa.URL:
    return sa.make_url(postgresql_url)


@pytest.fixture
def database(url: sa.URL) -> Iterator[PostgresqlDatabase]:
    opened = PostgresqlDatabase(SPEC, "A", url)
    yield opened
    opened.close()


def reopened(database: PostgresqlDatabase, url: sa.URL) -> PostgresqlDatabase:
    database.close()
    return PostgresqlDatabase(SPEC, "A", url)


def column_type(database: PostgresqlDatabase, name: str) -> str:
    statement = f"SELECT data_type FROM information_schema.columns WHERE column_name = '{name}'"
    return str(query(database, statement)[0][0])


def role(server: Server, name: str, *options: str) -> None:
    """A role of that name, anew, without what it owned."""
    if server.run(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'"):
        server.run(f"DROP OWNED BY {name}")
        server.run(f"DROP ROLE {name}")
    server.run(f"CREATE ROLE {name} {' '.join(options)}")


@pytest.mark.parametrize("swapped", [False, True])
def test_the_event_time_is_indexed(database, swapped):
    if swapped:
        with database.transaction() as transaction:
            transaction.create_replacement()
            transaction.swap()
    indexes = dict(query(database, "SELECT indexname::text, indexdef FROM pg_indexes WHERE tablename = 'orders'"))
    assert indexes["ix_orders_ordered_at"].endswith("USING btree (ordered_at)")
    assert len(indexes) == 2


def test_keys_are_ordered_by_their_bytes(database):
    """So an index stays right whatever becomes of the collations of the system underneath."""
    merge(database, changes("insert", "a", "B", "é", "e"), 1)
    assert query(database, "SELECT id FROM orders ORDER BY id") == [("B",), ("a",), ("e",), ("é",)]


def test_a_reason_does_not_quote_the_row(database):
    secret = changes("insert", "1", company="B", note="secret")
    with pytest.raises(RowFaultError) as caught:
        merge(database, secret, 1)
    assert "secret" not in str(caught.value)
    assert "orders_customer_check" in str(caught.value)


@pytest.mark.parametrize(
    "key", ["with\0nul", random.Random(1).randbytes(10_000).hex()], ids=["NUL", "too long for an index"]
)
def test_a_value_that_cannot_be_stored_is_a_fault_of_its_row(database, key):
    rows = changes("insert", key, "2")
    with pytest.raises(RowFaultError):
        merge(database, rows, 1)
    merge(database, rows.tail(1), 1)
    assert amounts(database) == {"2": 1}


def test_a_database_is_made_where_there_is_none(url, postgresql_server):
    assert not postgresql_server.run(f"SELECT 1 FROM pg_database WHERE datname = '{url.database}'")
    with closing(open_database(SPEC, "A", f"{url.set(drivername='postgresql+psycopg')}")) as made:
        merge(made, changes("insert", "1"), 1)
        assert amounts(made) == {"1": 1}


def test_the_template_names_a_database_for_each_company(url, postgresql_server):
    template = str(url.set(database=f"{url.database}_{{company}}")).replace("%7B", "{").replace("%7D", "}")
    settings = Settings(database_template=template)
    company = "it's / odd; DROP DATABASE postgres; --"
    place = settings.database_url(company)
    with closing(open_database(SPEC, company, place)) as made:
        merge(made, changes("insert", "1", company=company), 1)
        assert amounts(made) == {"1": 1}
    postgresql_server.run(f'DROP DATABASE "{sa.make_url(place).database}"')


def test_a_role_that_may_not_make_databases_is_told_so(url, postgresql_server):
    role(postgresql_server, "poor", "LOGIN", "PASSWORD 'hush'")
    with pytest.raises(
        TargetFaultError, match=r"does not exist and cannot be created \(permission.*CREATE DATABASE"
    ):
        open_database(SPEC, "A", url.set(username="poor").render_as_string(hide_password=False))


@pytest.mark.parametrize(
    "place", ["postgresql://me:hush@127.0.0.1:1/d", "postgresql://me@127.0.0.1:1/d?password=hush"]
)
def test_a_server_that_is_down_is_a_fault_of_the_database_and_the_password_is_not_shown(place):
    with pytest.raises(TargetFaultError, match=r"database postgresql://me.*127\.0\.0\.1.*refused") as caught:
        open_database(SPEC, "A", place)
    assert "hush" not in str(caught.value)


def test_what_the_url_asks_of_the_connection_is_passed_on(url, database):
    with pytest.raises(TargetFaultError, match="invalid sslmode value"):
        PostgresqlDatabase(SPEC, "A", url.set(host="127.0.0.1", port=1, query={"sslmode": "x y'\\"}))
    named = url.update_query_dict(
        {"application_name": "it's \\ me", "options": "-c search_path=public -c geqo=off"}
    )
    with closing(PostgresqlDatabase(SPEC, "A", named)) as opened:
        assert query(opened, "SELECT current_setting('application_name')") == [("it's \\ me",)]
        assert query(opened, "SELECT current_setting('geqo')") == [("off",)]


def test_a_role_that_is_unknown_or_one_too_many_is_a_fault_of_the_database(url, database, postgresql_server):
    with pytest.raises(TargetFaultError, match='role "nobody" does not exist'):
        PostgresqlDatabase(SPEC, "A", url.set(username="nobody"))
    role(postgresql_server, "crowded", "LOGIN", "CONNECTION LIMIT 0")
    with pytest.raises(TargetFaultError, match="too many connections"):
        PostgresqlDatabase(SPEC, "A", url.set(username="crowded"))


def test_a_company_may_have_a_schema_of_its_own(url, database, postgresql_server):
    """For where one database has to serve several."""
    for schema, company in (("one", "B"), ("two", "C")):
        run(database, f"CREATE SCHEMA {schema}")
        place = url.update_query_dict({"options": f"-c search_path={schema}"})
        with closing(PostgresqlDatabase(SPEC, company, place)) as opened:
            merge(opened, changes("insert", "1", company=company), 1)
            assert amounts(opened) == {"1": 1}
        with pytest.raises(TargetFaultError, match=f"belongs to company '{company}'"):
            PostgresqlDatabase(SPEC, "A", place)
    with pytest.raises(TargetFaultError, match="no schema"):
        PostgresqlDatabase(SPEC, "D", url.update_query_dict({"options": "-c search_path=three"}))


def test_a_database_of_another_encoding_is_refused(url, postgresql_server):
    postgresql_server.run(f"CREATE DATABASE {url.database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(TargetFaultError, match="encoded in LATIN1"):
        PostgresqlDatabase(SPEC, "A", url)


def test_without_the_driver_it_is_said_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "lpm_stream.delivery.postgresql")
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql.dbapi", None)
    with pytest.raises(LpmStreamError, match=r"pip install 'lpm-stream\[postgresql\]'"):
        open_database(SPEC, "A", "postgresql://host/db")


def test_a_lock_is_not_waited_for_for_ever(url, database, monkeypatch):
    monkeypatch.setattr(kind, "_SESSION", (*kind._SESSION, "SET lock_timeout = '20ms'"))
    with closing(PostgresqlDatabase(SPEC, "A", url)) as impatient:
        with database.transaction(), pytest.raises(TargetFaultError, match="lock timeout"):
            amounts(impatient)
        assert amounts(impatient) == {}
        with database.transaction() as transaction:
            transaction.run("LOCK TABLE orders")
            with pytest.raises(TargetFaultError, match="lock timeout"):
                PostgresqlDatabase(SPEC, "A", url)


def test_a_statement_does_not_work_for_ever(url, database, monkeypatch):
    monkeypatch.setattr(kind, "_SESSION", (*kind._SESSION, "SET statement_timeout = '20ms'"))
    with (
        closing(PostgresqlDatabase(SPEC, "A", url)) as hasty,
        pytest.raises(TargetFaultError, match="statement timeout"),
    ):
        query(hasty, "SELECT pg_sleep(60)::text")


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
    with pytest.raises(TargetFaultError):
        watermark(database)
    with closing(reopened(database, url)) as again:
        assert amounts(again) == {}
        assert watermark(again) == Watermark()


def test_a_failed_statement_cannot_be_committed_by_whoever_swallows_its_error(database):
    """PostgreSQL answers such a COMMIT with a rollback, and no error."""

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


def test_the_temporary_tables_stay(database):
    """A new one for each transaction would fill the system's catalogue."""
    oids = "SELECT oid FROM pg_class WHERE relname IN ('_lpm_upserts', '_lpm_deletes') ORDER BY oid"
    merge(database, changes("insert", "1", "2"), 1)
    merge(database, changes("delete", "1"), 2)
    before = query(database, oids)
    assert len(before) == 2
    for version in range(3, 6):
        merge(database, pl.concat([changes("insert", "3"), changes("delete", "2")]), version)
    assert query(database, oids) == before
    assert query(database, "SELECT count(*) FROM pg_temp._lpm_upserts") == [(0,)]


def test_two_merges_in_one_transaction(database):
    with database.transaction() as transaction:
        for version, key in enumerate("12", 1):
            rows = pl.concat([changes("insert", key), changes("delete", str(int(key) - 1))])
            transaction.merge(rows.with_columns(pl.lit(version, pl.Int64).alias(COMMIT_VERSION)))
    assert amounts(database) == {"2": 1}


def test_temporary_tables_of_a_transaction_that_failed_are_made_again(database):
    for extra in (7, 2**40):
        rows = changes("insert", "1", company="B").with_columns(extra=pl.lit(extra))
        with pytest.raises(RowFaultError):
            merge(database, rows, 1)
    merge(database, changes("insert", "1").with_columns(extra=pl.lit(8)), 1)
    assert query(database, "SELECT id, extra FROM orders") == [("1", 8)]


@pytest.mark.parametrize(
    ("column", "older", "now"),
    [
        ("amount", "integer", "bigint"),
        ("amount", "smallint", "bigint"),
        ("count", "smallint", "integer"),
        ("weight", "real", "double precision"),
        ("note", "character varying(40)", "text"),
    ],
)
def test_a_column_that_the_contract_widens_is_widened(url, database, column, older, now):
    merge(database, changes("insert", "1", amount=7, count=7, weight=0.5, note="7"), 1)
    run(database, f"ALTER TABLE orders ALTER COLUMN {column} TYPE {older}")
    [before] = query(database, f"SELECT {column} FROM orders")
    with closing(reopened(database, url)) as again:
        assert query(again, f"SELECT {column} FROM orders") == [before]
        assert column_type(again, column) == now


@pytest.mark.parametrize(
    ("column", "older"),
    [("amount", "numeric(10,0)"), ("ordered_at", "timestamp without time zone"), ("due", "text")],
)
def test_a_column_that_cannot_be_widened_safely_is_named(url, database, column, older):
    run(database, f"ALTER TABLE orders ALTER COLUMN {column} TYPE {older}")
    stored = column_type(database, column)
    with (
        closing(reopened(database, url)) as again,
        pytest.raises(TargetFaultError, match=rf"column {column} is {stored}.*, the contract says .*--replace"),
    ):
        merge(again, changes("insert", "1"), 1)


def test_a_column_that_a_view_needs_is_not_widened_behind_its_back(url, database):
    run(database, "ALTER TABLE orders ALTER COLUMN amount TYPE integer")
    run(database, "CREATE VIEW totals AS SELECT sum(amount) FROM orders")
    with pytest.raises(TargetFaultError, match="cannot alter type of a column used by a view"):
        reopened(database, url)


def test_columns_of_the_source_that_widen_are_widened_and_narrower_ones_fit(database):
    for version, value in enumerate([pl.lit(1, pl.Int32), pl.lit(2**40), pl.lit(3, pl.Int32)], 1):
        merge(database, changes("insert", str(version)).with_columns(extra=value), version)
    assert query(database, "SELECT extra FROM orders ORDER BY id") == [(1,), (2**40,), (3,)]


def test_a_column_that_may_be_null_now_may_be_null_in_the_table(url, database):
    run(database, "ALTER TABLE orders ALTER COLUMN note SET NOT NULL")
    with closing(reopened(database, url)) as again:
        merge(again, changes("insert", "1", note=None), 1)
        assert amounts(again) == {"1": 1}


def test_a_column_of_the_customers_own_that_nobody_fills_is_named(url, database):
    run(database, "ALTER TABLE orders ADD COLUMN mine integer NOT NULL DEFAULT 7")
    with closing(reopened(database, url)) as again:
        merge(again, changes("insert", "1"), 1)
        run(again, "ALTER TABLE orders ALTER COLUMN mine DROP DEFAULT")
    with (
        closing(PostgresqlDatabase(SPEC, "A", url)) as again,
        pytest.raises(TargetFaultError, match="column mine is NOT NULL and not in the contract"),
    ):
        merge(again, changes("insert", "2"), 2)


def test_who_may_read_the_table_may_read_its_replacement(database, postgresql_server):
    role(postgresql_server, "the_reader")
    run(database, "GRANT SELECT ON orders TO the_reader WITH GRANT OPTION")
    run(database, "GRANT SELECT ON orders TO PUBLIC")
    granted = (
        "SELECT grantee, privilege_type, is_grantable FROM information_schema.role_table_grants "
        "WHERE table_name = 'orders' AND grantee <> grantor ORDER BY grantee"
    )
    before = query(database, granted)
    assert len(before) == 2
    with database.transaction() as transaction:
        transaction.create_replacement()
        transaction.swap()
    assert query(database, granted) == before
    run(database, "DROP OWNED BY the_reader")


def test_the_customers_own_constraints_outlive_a_swap(database):
    run(database, "CREATE TABLE kinds (amount bigint PRIMARY KEY)")
    run(database, "INSERT INTO kinds VALUES (1), (2)")
    run(database, "ALTER TABLE orders ADD CONSTRAINT known FOREIGN KEY (amount) REFERENCES kinds")
    run(database, "ALTER TABLE orders ADD UNIQUE (note), ADD CONSTRAINT light CHECK (weight < 5)")
    definitions = (
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'orders'::regclass ORDER BY 1"
    )
    before = query(database, definitions)
    for _ in range(2):
        with database.transaction() as transaction:
            transaction.create_replacement()
            transaction.swap()
    assert query(database, definitions) == before
    assert len(before) >= 5


def test_a_table_that_a_view_needs_is_not_swapped_away(database):
    run(database, "CREATE VIEW totals AS SELECT sum(amount) FROM orders")

    def work() -> None:
        with database.transaction() as transaction:
            transaction.create_replacement()
            transaction.swap()

    with pytest.raises(TargetFaultError, match="cannot drop table orders because other objects depend on it"):
        work()
    merge(database, changes("insert", "1"), 1)


def test_names_of_full_length(url):
    long = "x" * 63
    spec = FeedSpec(
        name=long,
        description="Names as long as they may be",
        source_table="t",
        company_column="company",
        primary_key=(long,),
        event_time_column="y" * 63,
        columns=(
            Column(name=long, type="string", nullable=False, description="key"),
            Column(name="company", type="string", nullable=False, max_length=9, description="company"),
            Column(name="y" * 63, type="timestamp", nullable=False, description="event time"),
        ),
    )
    row = {long: ["1"], "company": ["A"], "y" * 63: [datetime(2026, 1, 1, tzinfo=UTC)]}
    rows = pl.DataFrame(row).with_columns(pl.lit("insert").alias(CHANGE_TYPE))
    with closing(PostgresqlDatabase(spec, "A", url)) as database:
        merge(database, rows, 1)
        for _ in range(2):
            with database.transaction() as transaction:
                transaction.create_replacement()
                transaction.fill_replacement(rows.select(*row, pl.lit(5, pl.Int64).alias(COMMIT_VERSION)))
                transaction.swap()
        assert query(database, f'SELECT count(*) FROM "{long}"') == [(1,)]
        too_long = rows.with_columns(pl.lit(1).alias("z" * 64))
        with pytest.raises(TargetFaultError, match="at most 63 bytes"):
            merge(database, too_long, 6)


def test_the_watermark_is_one_row(database):
    store(database, Watermark(version=1))
    store(database, Watermark(version=2))
    assert query(database, "SELECT feed, company, version FROM _lpm_watermark") == [("orders", "A", 2)]
