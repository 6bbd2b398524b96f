"""Companies in SQL Server: what delivery has written there is audited.

What is written for SQL Server is executed by PostgreSQL; see `lpm_stream_tests.tsql`.
"""

from contextlib import closing

import polars as pl
import pytest
import sqlalchemy as sa
import sqlglot

from lpm_stream.audit import mssql as kind
from lpm_stream.delivery.database import open_database
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION
from lpm_stream_tests.audit.world import SPEC, Row, World, faults, frame, of, row, rows
from lpm_stream_tests.delivery.databases import run

_DIALECT = sa.make_url("mssql+mssqlpython://").get_dialect()()


def deliver(world: World, url: str, table: list[Row], *statements: str) -> None:
    """Commits rows, delivers them to company A, and changes its database behind its back."""
    world.commit(table)
    world.databases["A"] = url
    changes = frame(table).with_columns(
        pl.lit("insert").alias(CHANGE_TYPE), pl.lit(1, pl.Int64).alias(COMMIT_VERSION)
    )
    with closing(open_database(SPEC, "A", url)) as database:
        with database.transaction() as transaction:
            transaction.merge(changes)
        for statement in statements:
            run(database, statement)


@pytest.mark.parametrize("tsql_url", ["mssqlpython", "pyodbc"], indirect=True)
def test_a_faithful_delivery_is_clean(world, tsql_url):
    odd = [
        row(100, "A", id="blank "),
        row(101, "A", id="blank", group=101 % 3),
        row(102, "A", s="\U0001f691 it's", weight=0.1 + 0.2, rowid=-(2**63)),
        row(103, "A", s=None, weight=None, rowid=None, paid=None, due=None),
    ]
    deliver(world, tsql_url, [*rows(range(20), "A"), *odd])
    report = world.audit()
    assert report.clean
    assert [one.counts.rows_in_database for one in report.companies] == [24]


@pytest.mark.parametrize(
    "change",
    [
        "s = NULL",
        "rowid = rowid + 1",
        "weight = weight + 1e-10",
        "paid = NULL",
        "due = '2030-01-01'",
        "seen_at = '2026-01-01T00:00:01.000002'",
    ],
)
def test_a_value_that_was_changed_differs(world, tsql_url, change):
    deliver(world, tsql_url, [row(1, "A", weight=0.1)], f"UPDATE [order] SET {change}")
    report = world.audit(settle_seconds=0.01)
    assert faults(report) == {"A": {"different": 1}}
    assert of(report, "A").examples["different"][0].columns == (change.split(maxsplit=1)[0],)


@pytest.mark.parametrize("tsql_url", ["mssqlpython", "pyodbc"], indirect=True)
def test_what_is_missing_or_extra_is_found(world, tsql_url):
    deliver(
        world,
        tsql_url,
        rows(range(10), "A"),
        "DELETE FROM [order] WHERE id = 'k3'",
        "UPDATE [order] SET id = 'k99' WHERE id = 'k5'",
    )
    assert faults(world.audit(settle_seconds=0.01)) == {"A": {"missing": 2, "extra": 1}}


def test_a_key_of_every_type_can_be_looked_for():
    parts: dict[str, str | int] = {
        "id": "a ",
        "seen_at": "2026-01-01T00:00:00.000000",
        "rowid": 7,
        "paid": 1,
        "due": "2026-01-01",
    }
    wanted = sa.and_(*(kind.is_part(SPEC.column(name), part) for name, part in parts.items()))
    statement = sa.select(*map(kind.selected, SPEC.columns)).select_from(sa.table(SPEC.name)).where(wanted)
    text = str(statement.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))
    [parsed] = sqlglot.parse(text, dialect="tsql", error_level=sqlglot.ErrorLevel.RAISE)
    assert parsed is not None
    condition = parsed.sql("tsql").partition(" WHERE ")[2]
    assert "id = N'a ' AND DATALENGTH(id) = 4" in condition
    assert "CAST([paid] AS INTEGER) = 1" in condition


@pytest.mark.parametrize("tsql_url", ["mssqlpython", "pyodbc"], indirect=True)
def test_a_company_without_rows_needs_no_database(world, tsql_url):
    deliver(world, tsql_url, rows(range(3), "A"))
    world.databases["B"] = sa.make_url(tsql_url).set(database="nowhere").render_as_string()
    assert world.audit().clean
