"""Every statement that the writer of SQL Server can produce: read by a T-SQL parser, and as it was."""

import logging
from collections.abc import Iterator

import pytest
from sqlglot import ParseError

from lpm_stream.delivery.mssql_tables import MssqlTables, widens
from lpm_stream.feed.schema import COMMIT_VERSION
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.mssql import LONGEST_NAME
from lpm_stream_tests.delivery.test_conformance import EVERY_KEY
from lpm_stream_tests.example import SPEC as BARE
from lpm_stream_tests.tsql.read import read

SPEC = BARE.model_copy(update={"indexes": {"dear": ("amount", "paid")}})
ODD = 'it\'s [a] "b" \\\nc ? %s'


def statements(tables: MssqlTables, columns: dict[str, str]) -> Iterator[str]:
    """All of them."""
    identity = {name: columns[name] for name in tables.identity}
    yield from (*tables.create, *tables.create_replacement, *tables.swap)
    yield from (tables.select_grants, tables.select_customers_own, tables.select_key(tables.name))
    yield from (tables.grant(state, "SELECT", "a ]reader") for state in "GWD")
    yield from (tables.select_indexes, *map(tables.drop_index, tables.indexes))
    yield tables.add_column(tables.name, "od]d; --", "nvarchar(max)")
    yield from (tables.alter_column(tables.name, "x", "bigint", not_null=held) for held in (True, False))
    yield tables.alter_column(tables.name, tables.identity[0], "nvarchar(400)", not_null=True)
    yield from (tables.select_columns(tables.name), tables.exists(tables.name), tables.sweep)
    for stage, landing in ((tables.upserts, columns), (tables.deletes, identity)):
        yield from tables.create_stage(stage, landing)
        yield from (tables.empty_stage(stage), tables.delete_batch(stage))
    for source in (tables.from_json(columns), tables.from_stage(tables.upserts, columns)):
        yield tables.upsert(tables.name, list(columns), source)
        yield tables.upsert(tables.replacement_name, list(columns), source)
    yield from (
        tables.delete(tables.from_json(identity)),
        tables.delete(tables.from_stage(tables.deletes, identity)),
    )
    yield from (tables.begin_preparing, tables.create_watermarks, tables.insert_watermark, tables.select_companies)
    yield from (tables.create_entitlements, tables.select_entitlement, *tables.store_entitlement(7))
    yield from (tables.drop_column(tables.name, "x"), *tables.drop_all)
    yield from (tables.lock_watermark, tables.update_watermark)


def every(spec: FeedSpec) -> list[str]:
    tables = MssqlTables(spec, ODD)
    columns = {column.name: tables.stored_type(column) for column in spec.columns} | {COMMIT_VERSION: "bigint"}
    return list(statements(tables, columns | {"od]d; --": "nvarchar(max)"}))


@pytest.mark.parametrize("spec", [SPEC, EVERY_KEY], ids=lambda spec: spec.name)
def test_every_statement_is_t_sql(spec, caplog):
    caplog.set_level(logging.WARNING, "sqlglot")
    for statement in every(spec):
        assert read(statement), statement
    assert not caplog.records


@pytest.mark.parametrize(
    "statement",
    [
        "DENY SELECT ON [a] TO [b] WITH GRANT OPTION",
        "DENY SELECT [a]",
        "ALTER DATABASE a b SET READ_COMMITTED_SNAPSHOT ON",
        "ALTER DATABASE [a] SET READ_COMMITTED_SNAPSHOT OFF ON",
        "BEGIN TRY SELECT FROM WHERE END TRY BEGIN CATCH SELECT 1 END CATCH",
        "BEGIN TRY SELECT 1 END TRY BEGIN CATCH SELECT (1 END CATCH",
        "BEGIN TRY SELECT 1 END CATCH",
    ],
)
def test_what_is_not_t_sql_is_told_from_it(statement):
    """Also in what the parser reads only by its parts."""
    with pytest.raises((ParseError, ValueError)):
        read(statement)


@pytest.mark.parametrize("spec", [SPEC, EVERY_KEY], ids=lambda spec: spec.name)
def test_every_statement_is_as_it_was(spec, snapshot):
    assert every(spec) == snapshot


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        ("int", "bigint", True),
        ("bigint", "int", False),
        ("bigint", "float", False),
        ("real", "float", True),
        ("datetime2(3)", "datetime2(6)", True),
        ("datetime2(7)", "datetime2(6)", False),
        ("nvarchar(10)", "nvarchar(20)", True),
        ("nvarchar(10)", "nvarchar(max)", True),
        ("nvarchar(max)", "nvarchar(20)", False),
        ("varchar(20)", "nvarchar(20)", True),
        ("varchar(max)", "nvarchar(20)", False),
        ("varchar(20)", "varchar(max)", False),
    ],
)
def test_a_column_is_altered_only_if_every_value_fits(stored, wanted, expected):
    assert widens(stored, wanted) is expected


def test_names_of_indexes_are_not_too_long_and_each_its_own():
    long = SPEC.model_copy(
        update={"name": "o" * 63, "event_time_column": "i" * 63, "indexes": {"i" * 60: ("paid",)}}
    )
    names = MssqlTables(long, "A").indexes
    assert len(names) == 2
    assert all(len(name) <= LONGEST_NAME for name in names)
