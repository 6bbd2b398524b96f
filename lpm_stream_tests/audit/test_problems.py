"""What cannot be read is said, and costs no more than it must."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from deltalake import DeltaTable, write_deltalake
from pyarrow import ipc

from lpm_stream.audit.buckets import FAN_OUT, Buckets
from lpm_stream.audit.run import audit
from lpm_stream.errors import LpmStreamError, SchemaError, SourceError
from lpm_stream_tests.audit.world import SPEC, World, as_stored, connect, faults, frame, insert, of, rows, run_sql

TABLE = [*rows(range(10), "A"), *rows(range(10, 18), "B")]


def file_of(url: str) -> Path:
    return Path(sa.make_url(url).database or "")


def no_file(url: str) -> None:
    file_of(url).unlink()


def no_database(url: str) -> None:
    file_of(url).write_bytes(b"this is not a database" * 500)


def empty_file(url: str) -> None:
    file_of(url).write_bytes(b"")


def directory(url: str) -> None:
    no_file(url)
    file_of(url).mkdir()


def no_table(url: str) -> None:
    run_sql(url, 'ALTER TABLE "order" RENAME TO other')


def no_column(url: str) -> None:
    run_sql(url, 'ALTER TABLE "order" DROP COLUMN "s"')


def broken_half_way(url: str) -> None:
    with connect(url) as connection:
        insert(connection, map(as_stored, rows(range(1_000, 40_000), "A")))
    content = bytearray(file_of(url).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 65_536] = b"\xff" * 65_536
    file_of(url).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (no_file, "does not exist"),
        (no_database, "file is not a database"),
        (empty_file, "no such table: order"),
        (directory, "unable to open database file|disk I/O error"),
        (no_table, "no such table: order"),
        (no_column, "its table order lacks the contract's columns s"),
        (broken_half_way, "malformed"),
    ],
)
def test_database_that_cannot_be_read(world: World, spoil: Callable[[str], None], problem: str) -> None:
    world.deliver(TABLE, ["A", "B"])
    spoil(world.databases["A"])
    report = world.audit(settle_seconds=0.1)
    assert faults(report) == {"A": {"missing": 10}}
    found = of(report, "A")
    assert not found.clean
    assert found.problem is not None
    assert re.search(problem, found.problem)
    assert "\n" not in found.problem
    assert found.counts.rows_in_database == 0
    assert of(report, "B").clean
    assert report.totals.missing == 10


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("oracle://lpm:secret@db.example/a", "databases of kind 'oracle' cannot be audited"),
        ("no url: secret", "not a SQLAlchemy URL"),
        ("sqlite://", "is not a file"),
    ],
)
def test_url_that_names_no_database_that_can_be_read(world: World, url: str, problem: str) -> None:
    world.commit(TABLE)
    world.databases["A"] = url
    found = of(world.audit(), "A")
    assert problem in (found.problem or "")
    assert "secret" not in (found.problem or "")
    assert found.counts.missing == 10


def test_a_company_without_rows_needs_no_database(world: World) -> None:
    world.deliver(TABLE, ["A", "B", "C"])
    no_file(world.databases["C"])
    assert world.audit().clean


def test_missing_table(world: World) -> None:
    with pytest.raises(SourceError, match=r"no Delta table at .*table: check LPM_STREAM_TABLES_URL"):
        audit(SPEC, world.table, {}, scratch=world.scratch)


def test_missing_version(world: World) -> None:
    world.commit(TABLE)
    with pytest.raises(SourceError, match="cannot be opened at version 7: "):
        audit(SPEC, world.table, {}, version=7, scratch=world.scratch)


def test_table_that_does_not_fit_the_contract(world: World) -> None:
    write_deltalake(world.table, frame(TABLE).drop("s").to_arrow())
    with pytest.raises(SchemaError, match=r"column s \(string\) is missing"):
        audit(SPEC, world.table, {}, scratch=world.scratch)


def test_version_whose_files_are_gone(world: World) -> None:
    world.commit(TABLE)
    Path(DeltaTable(world.table).file_uris()[0]).unlink()
    with pytest.raises(SourceError, match=r"version 0 of table .* can no longer be read"):
        audit(SPEC, world.table, {}, scratch=world.scratch)
    assert list(world.scratch.iterdir()) == []


def test_error_while_working_leaves_no_scratch_files(world: World) -> None:
    world.deliver(TABLE, ["A", "B"])

    def interrupt(_step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(SPEC, world.table, world.databases, scratch=world.scratch, progress=interrupt)
    assert list(world.scratch.iterdir()) == []


def test_scratch_directory_that_is_none(world: World) -> None:
    world.commit(TABLE)
    world.scratch.write_text("a file")
    with pytest.raises(LpmStreamError, match=r"scratch directory .* cannot be used"):
        audit(SPEC, world.table, {}, scratch=world.scratch)


@pytest.fixture
def buckets(tmp_path: Path) -> Buckets:
    """Buckets with 4,000 rows."""
    [batch] = frame(rows(range(2_000), "A")).to_arrow().combine_chunks().to_batches()
    batch = batch.append_column("_hash", batch.column("rowid"))
    with Buckets(tmp_path / "buckets") as filled:
        assert filled.add([batch, batch]) == 4_000
    return filled


def count(buckets: Buckets) -> list[int]:
    return [sum(batch.num_rows for batch in buckets.rows(number)) for number in range(FAN_OUT)]


def test_bucket_is_divided_by_further_bits(buckets: Buckets) -> None:
    assert count(buckets) == [250] * FAN_OUT
    assert set(count(buckets.split(3))) == {14, 16}


def test_scratch_file_that_lost_rows_is_noticed(buckets: Buckets, tmp_path: Path) -> None:
    file = tmp_path / "buckets" / "3.arrow"
    first = next(iter(buckets.rows(3)))
    with ipc.new_stream(str(file), first.schema) as writer:
        writer.write_batch(first.slice(0, 125))
    with pytest.raises(LpmStreamError, match=r"scratch directory .* cannot be used \(125 of 250 rows read back\)"):
        list(buckets.rows(3))
    file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(LpmStreamError, match=r"scratch directory .* cannot be used"):
        list(buckets.rows(3))
