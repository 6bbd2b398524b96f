"""Every kind of fault is found, in the right company's database and nowhere else."""

import hashlib
import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from deltalake import DeltaTable

from lpm_stream.audit import compare
from lpm_stream.audit.buckets import Buckets
from lpm_stream.audit.report import Example, Step
from lpm_stream_tests.audit.world import World, as_stored, connect, faults, insert, of, row, rows, run_sql

TABLE = [*rows(range(10), "A"), *rows(range(10, 18), "B"), *rows(range(18, 20), "C")]


@pytest.fixture
def delivered(world: World) -> World:
    """A, B and C have what is theirs."""
    world.deliver(TABLE, ["A", "B", "C"], keyed=False)
    return world


def test_a_faithful_delivery_is_clean(delivered: World) -> None:
    report = delivered.audit()
    assert report.clean
    assert faults(report) == {}
    assert [(c.company, c.counts.rows_in_table, c.counts.rows_in_database) for c in report.companies] == [
        ("A", 10, 10),
        ("B", 8, 8),
        ("C", 2, 2),
    ]
    assert (report.totals.rows_in_table, report.unregistered, report.ambiguous) == (20, 0, 0)
    assert (report.feed, report.table, report.version) == ("order", delivered.table, 0)
    assert report.settled_version is None


def test_missing_row(delivered: World) -> None:
    run_sql(delivered.databases["B"], """DELETE FROM "order" WHERE id = 'k12'""")
    report = delivered.audit()
    assert faults(report) == {"B": {"missing": 1}}
    assert of(report, "B").examples == {"missing": (Example(("k12", 0)),)}
    assert not report.clean
    assert of(report, "A").clean


def test_extra_row(delivered: World) -> None:
    with connect(delivered.databases["B"]) as connection:
        insert(connection, [as_stored(row(99, "B"))])
    report = delivered.audit()
    assert faults(report) == {"B": {"extra": 1}}
    assert of(report, "B").examples == {"extra": (Example(("k99", 0)),)}


def test_different_row_names_its_columns(delivered: World) -> None:
    run_sql(delivered.databases["A"], """UPDATE "order" SET paid = 1 - paid, s = NULL WHERE id = 'k3'""")
    report = delivered.audit()
    assert faults(report) == {"A": {"different": 1}}
    assert of(report, "A").examples == {"different": (Example(("k3", 0), ("s", "paid")),)}


def test_duplicated_key_counts_copies_beyond_the_first(delivered: World) -> None:
    with connect(delivered.databases["C"]) as connection:
        insert(connection, [as_stored(row(18, "C"))] * 2)
    report = delivered.audit()
    assert faults(report) == {"C": {"duplicated": 2}}
    assert of(report, "C").examples == {"duplicated": (Example(("k18", 0)),) * 2}


def test_copies_are_compared_one_by_one(delivered: World) -> None:
    with connect(delivered.databases["C"]) as connection:
        insert(connection, [as_stored(row(18, "C", s="one")), as_stored(row(18, "C", paid=None))])
    report = delivered.audit()
    assert faults(report) == {"C": {"different": 2, "duplicated": 2}}
    assert {example.columns for example in of(report, "C").examples["different"]} == {("s",), ("paid",)}


def test_row_of_another_company_is_misrouted(delivered: World) -> None:
    with connect(delivered.databases["A"]) as connection:
        insert(connection, [as_stored(row(18, "C"))])
    assert faults(delivered.audit()) == {"A": {"misrouted": 1}}


def test_key_of_another_company_is_misrouted_even_under_the_right_name(delivered: World) -> None:
    with connect(delivered.databases["A"]) as connection:
        insert(connection, [as_stored(row(18, "A"))])
    assert faults(delivered.audit()) == {"A": {"misrouted": 1}}


def test_own_key_under_another_name_is_misrouted_not_missing(delivered: World) -> None:
    run_sql(delivered.databases["A"], """UPDATE "order" SET company = 'C' WHERE id = 'k3'""")
    assert faults(delivered.audit()) == {"A": {"misrouted": 1}}


def test_key_that_moved_between_companies_and_was_left_behind(delivered: World) -> None:
    DeltaTable(delivered.table).update(updates={"company": "'B'"}, predicate="id = 'k3'")
    report = delivered.audit()
    assert faults(report) == {"A": {"misrouted": 1}, "B": {"missing": 1}}
    assert report.version == 1
    assert delivered.audit(version=0).clean


def test_unregistered_companies_are_counted_not_missed(world: World) -> None:
    world.commit([*rows(range(3), "A"), *rows(range(3, 8), "nobody"), *rows(range(8, 10), None), row(10, "")])
    world.register("A", map(as_stored, rows(range(3), "A")))
    report = world.audit()
    assert report.clean
    assert report.unregistered == 8


def test_key_of_an_unregistered_company_is_misrouted(world: World) -> None:
    world.commit([row(1, "A"), row(2, "nobody"), row(3, None)])
    world.register("A", map(as_stored, rows(range(1, 4), "A")))
    assert faults(world.audit()) == {"A": {"misrouted": 2}}


def test_ambiguous_keys_are_reported_apart(world: World) -> None:
    table = [
        row(1, "A"),
        row(1, "A", s="again"),
        row(2, "A"),
        row(2, "B"),
        row(3, "A", s="x"),
        row(3, "A", s="y", paid=True),
    ]
    world.commit(table)
    world.register("A", [as_stored(table[1]), as_stored(table[2]), as_stored(row(3, "A", s="z", paid=True))])
    world.register("B", [as_stored(table[3])])
    report = world.audit()
    assert (report.ambiguous, report.ambiguous_examples) == (
        3,
        (Example(("k1", 1)), Example(("k2", 2)), Example(("k3", 0))),
    )
    assert faults(report) == {"A": {"different": 1}}
    assert of(report, "A").examples["different"] == (Example(("k3", 0), ("s",)),)


def test_same_id_with_another_second_part_is_another_key(world: World) -> None:
    table = [row(1, "A", group=1), row(1, "A", group=2)]
    world.deliver(table, ["A"])
    assert world.audit().clean
    run_sql(world.databases["A"], 'UPDATE "order" SET "group" = 3 WHERE "group" = 2')
    report = world.audit()
    assert faults(report) == {"A": {"missing": 1, "extra": 1}}
    assert of(report, "A").examples == {"missing": (Example(("k1", 2)),), "extra": (Example(("k1", 3)),)}


def test_key_with_null_is_in_nobodys_database(world: World) -> None:
    world.commit([row(1, "A"), row(2, "A", id=None), row(3, "A", id=None)])
    world.register("A", [as_stored(row(1, "A", s="x")), *map(as_stored, rows([2, 2], "A", id=None))])
    report = world.audit(settle_seconds=0.1)
    assert faults(report) == {"A": {"missing": 2, "different": 1, "extra": 2}}
    assert report.ambiguous == 0


def test_ten_lowest_keys_are_the_examples(world: World) -> None:
    table = rows(range(100, 150), "A")
    world.commit(table)
    world.register("A", [])
    examples = of(world.audit(), "A").examples["missing"]
    assert [example.key[0] for example in examples] == [f"k{number}" for number in range(100, 110)]


def test_report_is_plain_json_without_values(delivered: World) -> None:
    run_sql(delivered.databases["A"], """UPDATE "order" SET s = 'secret'""")
    text = json.dumps(asdict(delivered.audit()))
    assert '"different": 10' in text
    assert "secret" not in text
    assert "text 3" not in text


def test_databases_are_not_written(delivered: World) -> None:
    files = {Path(sa.make_url(url).database or "") for url in delivered.databases.values()}
    before = {file: hashlib.sha256(file.read_bytes()).digest() for file in files}
    delivered.audit(settle_seconds=0.1)
    assert {file: hashlib.sha256(file.read_bytes()).digest() for file in files} == before
    assert set(delivered.directory.glob("*.db*")) == files


def test_log_of_a_database_in_wal_mode_is_read_and_left_alone(world: World) -> None:
    world.deliver(rows(range(5), "A"), ["A"], wal=True)
    file = Path(sa.make_url(world.databases["A"]).database or "")
    with closing(connect(world.databases["A"])) as connection:
        insert(connection, [as_stored(row(9, "A"))])
        left = file.with_name("left.db")  # as a killed writer leaves it
        left.write_bytes(file.read_bytes())
        left.with_name("left.db-wal").write_bytes(file.with_name(f"{file.name}-wal").read_bytes())
    world.databases["A"] = f"sqlite:///{left}"
    before = left.read_bytes(), left.with_name("left.db-wal").read_bytes()
    assert faults(world.audit()) == {"A": {"extra": 1}}
    assert (left.read_bytes(), left.with_name("left.db-wal").read_bytes()) == before


def test_progress_tells_of_each_piece_of_work(delivered: World) -> None:
    run_sql(delivered.databases["C"], 'DELETE FROM "order"')
    steps: list[Step] = []
    delivered.audit(progress=steps.append, settle_seconds=0.01)
    assert steps == [
        Step("table", 20),
        Step("database", 10, "A"),
        Step("database", 8, "B"),
        Step("database", 0, "C"),
        Step("compare", 2),
        Step("settle", 2),
    ]


def test_without_companies_everything_is_unregistered(world: World) -> None:
    world.commit(TABLE)
    report = world.audit()
    assert report.clean
    assert (report.companies, report.unregistered) == ((), 20)


def test_empty_table_and_empty_database(world: World) -> None:
    world.deliver([], ["A"])
    assert world.audit().clean


@pytest.mark.parametrize(("count", "most_bytes"), [(10, 1), (100, 2_000), (2_000, 50_000)])
def test_what_does_not_fit_into_memory_is_divided(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int, most_bytes: int
) -> None:
    monkeypatch.setattr(compare, "_MOST_BYTES", most_bytes)
    world.deliver([*rows(range(count), "A"), *rows(range(count, 2 * count), "B")], ["A", "B"])
    with patch.object(Buckets, "split", autospec=True, side_effect=Buckets.split) as split:
        assert world.audit().clean
    assert split.called
    run_sql(world.databases["A"], """DELETE FROM "order" WHERE id IN ('k1', 'k7')""")
    run_sql(world.databases["B"], """UPDATE "order" SET weight = -1 WHERE id LIKE '%3'""")
    with connect(world.databases["B"]) as connection:
        insert(connection, map(as_stored, rows([5, 5_000, 6_000], "B")))
    expected = {"A": {"missing": 2}, "B": {"different": count // 10, "extra": 2, "misrouted": 1}}
    report = world.audit()
    assert faults(report) == expected
    assert report.totals.rows_in_table == 2 * count
