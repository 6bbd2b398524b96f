"""The indexes that a feed declares, on each kind of database."""

import logging
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import polars as pl
import pytest

from lpm_stream.delivery.database import CompanyDatabase, open_database
from lpm_stream.delivery.mssql import MssqlDatabase
from lpm_stream.delivery.sqlite import SqliteDatabase
from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.delivery.conftest import Place
from lpm_stream_tests.delivery.databases import amounts, changes, merge, query, run
from lpm_stream_tests.example import SPEC

# In SQLite names and columns; in PostgreSQL, which executes what is written for SQL Server, those names with the
# table's before them.
_OF_SQLITE = """
    SELECT i.name, group_concat(c.name) FROM pragma_index_list('orders') AS i, pragma_index_info(i.name) AS c
    WHERE i.origin = 'c' GROUP BY i.name"""
_OF_POSTGRESQL = """
    SELECT replace(i.relname, 'orders.', '')::text, string_agg(attname::text, ',' ORDER BY place)
    FROM pg_index JOIN pg_class AS i ON i.oid = indexrelid CROSS JOIN unnest(indkey) WITH ORDINALITY AS k(n, place)
    JOIN pg_attribute ON attrelid = indrelid AND attnum = k.n
    WHERE indrelid = to_regclass('orders') AND NOT indisunique GROUP BY 1"""
_OF_SQL_SERVER = """
    SELECT i.name, STRING_AGG(c.name, ',') WITHIN GROUP (ORDER BY x.key_ordinal) FROM sys.indexes AS i
    INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id
    INNER JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id
    WHERE i.object_id = OBJECT_ID('orders') AND i.is_primary_key = 0 GROUP BY i.name"""
_ALWAYS = {"ix_orders_ordered_at": "ordered_at"}


def declaring(**indexes: tuple[str, ...]) -> FeedSpec:
    return FeedSpec.model_validate(SPEC.model_dump() | {"indexes": indexes})


def indexed(place: Place, database: CompanyDatabase) -> dict[str, str]:
    """Name to columns of the table's indexes, without that of its key."""
    if isinstance(database, SqliteDatabase):
        return dict(query(database, _OF_SQLITE))
    is_server = isinstance(database, MssqlDatabase) and "socket=" not in place.url
    return dict(query(database, _OF_SQL_SERVER if is_server else _OF_POSTGRESQL))


def rebuild(database: CompanyDatabase, rows: pl.DataFrame) -> None:
    with database.transaction() as transaction:
        transaction.create_replacement()
        transaction.fill_replacement(
            rows.drop(CHANGE_TYPE).with_columns(pl.lit(9, pl.Int64).alias(COMMIT_VERSION))
        )
        transaction.swap()


def test_they_are_made_with_the_table_and_outlive_a_swap(place):
    spec = declaring(dear=("amount", "paid"), late=("due",))
    expected = _ALWAYS | {"ix_orders_dear": "amount,paid", "ix_orders_late": "due"}
    with closing(place.open(spec=spec)) as database:
        assert indexed(place, database) == expected
        for key in ("1", "2"):
            rebuild(database, changes("insert", key))
            assert indexed(place, database) == expected
        assert amounts(database) == {"2": 1}


def test_what_is_declared_later_is_made_and_what_is_not_declared_any_more_stays(place):
    with closing(place.open()) as database:
        merge(database, changes("insert", "1"), 1)
        assert indexed(place, database) == _ALWAYS
    for _ in range(2):
        with closing(place.open(spec=declaring(dear=("amount",)))) as database:
            assert indexed(place, database) == _ALWAYS | {"ix_orders_dear": "amount"}
    with closing(place.open()) as database:
        assert indexed(place, database) == _ALWAYS | {"ix_orders_dear": "amount"}
        assert amounts(database) == {"1": 1}


def test_a_list_of_columns_that_has_changed_is_followed(place):
    with closing(place.open(spec=declaring(dear=("amount",)))):
        pass
    with closing(place.open(spec=declaring(dear=("amount", "paid")))) as database:
        assert indexed(place, database) == _ALWAYS | {"ix_orders_dear": "amount,paid"}


@pytest.mark.parametrize("place", ["postgresql", "tsql", "mssql"], indirect=True)
@pytest.mark.parametrize("arriving", [False, True])
def test_a_column_that_has_one_can_be_widened(place, arriving):
    """By the contract, or by what arrives. SQLite's integers are of one size."""
    spec = declaring(many=("count",))
    wider = with_column(spec, "count", type="int64")
    with closing(place.open(spec=spec)) as database:
        merge(database, changes("insert", "1"), 1)
        if arriving:
            merge(database, changes("insert", "2").with_columns(count=pl.lit(2**40)), 2)
            assert indexed(place, database) == _ALWAYS | {"ix_orders_many": "count"}
    with closing(place.open(spec=wider)) as database:
        assert indexed(place, database) == _ALWAYS | {"ix_orders_many": "count"}
        merge(database, changes("insert", "3").with_columns(count=pl.lit(2**41)), 3)
        assert query(database, "SELECT count FROM orders WHERE id = '3'") == [(2**41,)]


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_one_that_cannot_be_made_stops_nothing(place, caplog):
    """Neither rows, nor that a column goes which the company may not get any more."""
    with opened(grouped(), place, 1, "all") as database:
        run(database, "CREATE VIEW ix_orders_dear AS SELECT 1 AS one")
    with opened(grouped(dear=("amount",)), place, 2, "base") as database:
        assert "index ix_orders_dear is not made" in caplog.text
        merge(database, changes("insert", "1"), 1)
        assert amounts(database) == {"1": 1}
        assert indexed(place, database) == _ALWAYS
        with pytest.raises(TargetFaultError):
            query(database, "SELECT weight FROM orders")


def test_one_on_a_column_that_the_contract_gains_is_made(place):
    with closing(place.open()):
        pass
    more = [
        *SPEC.model_dump()["columns"],
        {"name": "colour", "type": "string", "max_length": 9, "description": "c"},
    ]
    spec = FeedSpec.model_validate(SPEC.model_dump() | {"columns": more, "indexes": {"colour": ("colour",)}})
    with closing(place.open(spec=spec)) as database:
        assert indexed(place, database) == _ALWAYS | {"ix_orders_colour": "colour"}


def test_one_on_a_column_that_a_company_may_not_get_any_more_goes_with_it(place):
    spec = grouped(heavy=("ordered_at", "weight"), dear=("amount",))
    dear = {"ix_orders_dear": "amount"}
    heavy = {"ix_orders_heavy": "ordered_at,weight"}
    for generation, group, expected in ((1, "all", dear | heavy), (2, "base", dear), (3, "all", dear | heavy)):
        with opened(spec, place, generation, group) as database:
            merge(database, changes("insert", str(generation)), generation)
            assert indexed(place, database) == _ALWAYS | expected
            rebuild(database, changes("insert", str(generation)))
            assert indexed(place, database) == _ALWAYS | expected


def test_one_that_is_not_declared_any_more_does_not_keep_such_a_column(place):
    with opened(grouped(heavy=("weight",)), place, 1, "all"):
        pass
    with opened(grouped(), place, 2, "base") as database:
        assert indexed(place, database) == _ALWAYS
        with pytest.raises(TargetFaultError):
            query(database, "SELECT weight FROM orders")


@pytest.mark.parametrize("place", ["sqlite", "tsql", "mssql"], indirect=True)
def test_one_of_the_customers_own_on_such_a_column_keeps_it(place):
    """PostgreSQL drops it with the column."""
    with opened(grouped(), place, 1, "all") as database:
        run(database, "CREATE INDEX mine ON orders (weight)")
    with pytest.raises(TargetFaultError, match=r"mine|dependent on column weight"):
        opened(grouped(), place, 2, "base")


@pytest.mark.parametrize(("column", "made"), [("paid", 1), ("amount", 0)])
@pytest.mark.parametrize("place", ["sqlite", "mssql"], indirect=True)
def test_one_whose_name_differs_in_case_only_is_ours(place, caplog, column, made):
    """Where names are the same in either case: it is made anew if it has other columns, and outlives a swap."""
    caplog.set_level(logging.INFO)
    with closing(place.open()) as database:
        run(database, f"CREATE INDEX IX_orders_dear ON orders ({column})")
    for key in ("1", "2"):
        with closing(place.open(spec=declaring(dear=("amount",)))) as database:
            found = {name.lower(): columns for name, columns in indexed(place, database).items()}
            assert found == _ALWAYS | {"ix_orders_dear": "amount"}
            rebuild(database, changes("insert", key))
    assert "is not made" not in caplog.text
    assert caplog.text.count("index ix_orders_dear made") == made


@pytest.mark.parametrize("place", ["postgresql", "tsql"], indirect=True)
def test_one_whose_name_differs_in_case_is_the_customers_own_where_case_tells_names_apart(place, caplog):
    caplog.set_level(logging.INFO)
    with closing(place.open()) as database:
        run(database, 'CREATE INDEX "IX_orders_dear" ON orders (amount)')
    for _ in range(2):
        with closing(place.open(spec=declaring(dear=("amount",)))) as database:
            made = _ALWAYS | {"ix_orders_dear": "amount"}
            assert indexed(place, database).items() >= made.items()
            assert len(indexed(place, database)) == len(made) + 1
    assert caplog.text.count("index ix_orders_dear made") == 1


@pytest.mark.parametrize("place", ["sqlite", "postgresql", "mssql"], indirect=True)
def test_a_long_name_is_one_that_every_kind_takes(place):
    long = "i" * 60
    spec = FeedSpec.model_validate(SPEC.model_dump() | {"name": "o" * 63, "indexes": {long: ("paid",)}})
    for _ in range(2):
        with closing(place.open(spec=spec)) as database:
            rebuild(database, changes("insert", "1"))


def with_column(spec: FeedSpec, name: str, **changed: Any) -> FeedSpec:
    columns: list[Mapping[str, Any]] = [
        column.model_dump() | (changed if column.name == name else {}) for column in spec.columns
    ]
    return FeedSpec.model_validate(spec.model_dump() | {"columns": columns})


def grouped(**indexes: tuple[str, ...]) -> FeedSpec:
    return with_column(declaring(**indexes), "weight", group="scales")


def opened(spec: FeedSpec, place: Place, generation: int, group: str) -> closing[CompanyDatabase]:
    return closing(open_database(spec, "A", place.url, Entitlement((group,), generation)))
