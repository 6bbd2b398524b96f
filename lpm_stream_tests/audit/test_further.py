"""Columns that the contract lacks are compared where the policy takes them in."""

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake

from lpm_stream.delivery.database import open_database
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, contract_schema
from lpm_stream_tests.audit.world import SPEC, World, as_stored, faults, frame, of, rows, run_sql

EVOLVE = SPEC.model_copy(update={"schema_policy": "evolve"})
FURTHER: Mapping[str, Any] = {
    "colour": pl.lit("red"),
    "Long text": pl.lit("x" * 100),
    'od"d; --': pl.lit(2**40),
    "small": pl.lit(7, pl.Int32),
    "share": pl.lit(0.5),
    "flag": pl.lit(value=True),
    "at": pl.lit(datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), pl.Datetime("us", "UTC")),
    "day": pl.lit(date(2026, 1, 2)),
    "nothing": pl.lit(None, pl.String),
}


def commit(world: World, count: int, **further: Any) -> pl.DataFrame:
    """Commits rows of A with further columns."""
    table = frame(rows(range(count), "A")).with_columns(**further)
    write_deltalake(world.table, table.to_arrow(), mode="append", schema_mode="merge")
    return table


@pytest.fixture(params=["sqlite", "postgresql", "tsql"])
def delivered(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A has what is theirs: written by delivery, in a database of each kind in turn."""
    world = World(tmp_path, EVOLVE)
    url = world.url("A") if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url")
    world.databases["A"] = url
    changes = commit(world, 4, **FURTHER).with_columns(
        pl.lit("insert").alias(CHANGE_TYPE), pl.lit(0, pl.Int64).alias(COMMIT_VERSION)
    )
    with closing(open_database(EVOLVE, "A", url)) as database, database.transaction() as transaction:
        transaction.merge(changes)
    return world


def test_further_columns_of_all_types_are_alike(delivered: World) -> None:
    assert delivered.audit().clean


@pytest.mark.parametrize("name", [name for name in FURTHER if name != "nothing"])
def test_a_value_of_a_further_column_that_differs_is_found(delivered: World, name: str) -> None:
    table = frame(rows(range(4), "A")).with_columns(**FURTHER)
    changed = table.with_columns(pl.when(pl.col("id") != "k2").then(pl.col(name)).alias(name))
    write_deltalake(delivered.table, changed.to_arrow(), mode="overwrite")
    report = delivered.audit(settle_seconds=0.1)
    assert faults(report) == {"A": {"different": 1}}
    assert of(report, "A").examples["different"][0].columns == (name,)


@pytest.mark.parametrize("name", ["colour", "_row", "_columns", "_rescued_data"])
def test_a_database_that_lacks_a_further_column_has_null_there(tmp_path: Path, name: str) -> None:
    world = World(tmp_path, EVOLVE)
    commit(world, 4, **{name: pl.lit(None, pl.String)})
    world.register("A", map(as_stored, rows(range(4), "A")))
    assert world.audit().clean
    write_deltalake(
        world.table, frame(rows(range(4), "A")).with_columns(**{name: pl.lit("x")}).to_arrow(), mode="overwrite"
    )
    own = name in {"_row", "_columns"}  # the audit's
    assert faults(world.audit()) == ({} if own else {"A": {"different": 4}})


def test_what_is_held_back_and_what_is_the_customers_own_is_left_alone(tmp_path: Path) -> None:
    for number, (spec, column) in enumerate(((SPEC, "colour"), (EVOLVE, "remark"))):
        world = World(tmp_path / f"{number}", spec)
        commit(world, 4, colour=pl.lit(None, pl.String))
        world.register("A", map(as_stored, rows(range(4), "A")))
        run_sql(world.databases["A"], f"""ALTER TABLE "order" ADD COLUMN {column} TEXT DEFAULT 'mine'""")
        assert world.audit().clean


def test_what_a_company_may_not_get_is_not_missed(tmp_path: Path) -> None:
    columns = tuple(c.model_copy(update={"group": "more"}) if c.name == "s" else c for c in EVOLVE.columns)
    world = World(tmp_path, EVOLVE.model_copy(update={"columns": columns}).for_groups(()))
    everything = pl.DataFrame(rows(range(4), "A"), schema=contract_schema(SPEC), orient="row")
    write_deltalake(world.table, everything.to_arrow())
    world.register("A", map(as_stored, rows(range(4), "A")))
    assert world.audit().clean
