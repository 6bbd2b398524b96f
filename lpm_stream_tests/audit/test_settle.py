"""A stream that runs: lag passes, loss stays; and a writer at work disturbs nobody."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest
import sqlalchemy as sa

from lpm_stream.audit import settle
from lpm_stream.audit.database import database_rows
from lpm_stream.audit.report import Example, KeyPart, Step
from lpm_stream.audit.scratch import scratch_space
from lpm_stream_tests.audit.world import World, as_stored, connect, faults, insert, of, row, rows, run_sql


def once_compared(work: Callable[[], None]) -> Callable[[Step], None]:
    """Does something between the first pass and the first look that settles."""

    def told(step: Step) -> None:
        if step.name == "compare":
            work()

    return told


def test_lag_passes_and_loss_stays(world: World) -> None:
    table = [*rows(range(20), "A"), *rows(range(20, 30), "B")]
    world.deliver(table, ["A", "B"], wal=True)
    late = """DELETE FROM "order" WHERE id IN ('k3', 'k4', 'k5')"""
    with closing(connect(world.databases["A"])) as connection:
        connection.execute(late)
        connection.execute("""UPDATE "order" SET s = 'old' WHERE id IN ('k6', 'k7')""")
        insert(connection, map(as_stored, [*rows([50, 51], "A"), *rows([25, 27], "B")]))
    run_sql(world.databases["B"], """DELETE FROM "order" WHERE id IN ('k25', 'k26')""")
    before = world.audit()
    assert faults(before) == {"A": {"missing": 3, "different": 2, "extra": 2, "misrouted": 2}, "B": {"missing": 2}}

    def catch_up() -> None:
        with closing(connect(world.databases["A"])) as connection:
            insert(connection, map(as_stored, rows([3, 4], "A")))  # 5 is lost
            connection.execute("""UPDATE "order" SET s = 'text 6' WHERE id = 'k6'""")
            connection.execute("""DELETE FROM "order" WHERE id IN ('k50', 'k25')""")
        with closing(connect(world.databases["B"])) as connection:
            insert(connection, map(as_stored, rows([25], "B")))

    report = world.audit(settle_seconds=0.1, progress=once_compared(catch_up))
    assert faults(report) == {"A": {"missing": 1, "different": 1, "extra": 1, "misrouted": 1}, "B": {"missing": 1}}
    assert of(report, "A").examples == {
        "missing": (Example(("k5", 2)),),
        "different": (Example(("k7", 1), ("s",)),),
        "extra": (Example(("k51", 0)),),
        "misrouted": (Example(("k27", 0)),),
    }
    assert (report.version, report.settled_version) == (0, 0)


def test_it_ends_as_soon_as_all_agrees(world: World) -> None:
    world.deliver(rows(range(5), "A"), ["A"])
    run_sql(world.databases["A"], """UPDATE "order" SET s = 'old' WHERE id = 'k1'""")
    catch_up = Timer(0.7, run_sql, (world.databases["A"], """UPDATE "order" SET s = 'text 1' WHERE id = 'k1'"""))
    catch_up.start()
    steps: list[Step] = []
    report = world.audit(settle_seconds=600, progress=steps.append)
    catch_up.join()
    assert report.clean
    assert [step.rows for step in steps if step.name == "settle"][-1] == 0


def test_database_ahead_of_the_version_is_measured_by_the_newest(world: World) -> None:
    world.commit(rows(range(5), "A"))
    world.commit(rows(range(5, 8), "A"))
    world.register("A", map(as_stored, rows(range(8), "A")))
    assert faults(world.audit(version=0)) == {"A": {"extra": 3}}
    report = world.audit(version=0, settle_seconds=5)
    assert report.clean
    assert (report.version, report.settled_version) == (0, 1)


def test_nothing_to_settle_takes_no_look(world: World) -> None:
    world.deliver(rows(range(5), "A"), ["A"])
    assert world.audit(settle_seconds=600).settled_version is None


def test_more_than_lag_is_not_looked_at_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "MOST_KEYS", 4)
    world.deliver(rows(range(5), "A"), ["A"])
    run_sql(world.databases["A"], 'DELETE FROM "order"')
    report = world.audit(settle_seconds=0.6)
    assert report.settled_version is None
    assert faults(report) == {"A": {"missing": 5}}


def test_many_keys_are_read_in_several_statements(world: World) -> None:
    world.deliver(rows(range(1_200), "A"), ["A"])
    run_sql(world.databases["A"], """UPDATE "order" SET s = 'old' WHERE id <> 'k7'""")

    def catch_up() -> None:
        run_sql(world.databases["A"], """UPDATE "order" SET s = 'text ' || substr(id, 2) WHERE id <> 'k8'""")

    report = world.audit(settle_seconds=0.1, progress=once_compared(catch_up))
    assert of(report, "A").examples == {"different": (Example(("k8", 2), ("s",)),)}


def test_duplicates_stay(world: World) -> None:
    world.deliver(rows(range(5), "A"), ["A"], keyed=False)
    with closing(connect(world.databases["A"])) as connection:
        insert(connection, [as_stored(row(1, "A", s="copy")), as_stored(row(2, "A"))])
    assert faults(world.audit(settle_seconds=0.1)) == {"A": {"duplicated": 2, "different": 1}}


def test_database_that_goes_while_settling_keeps_its_faults(world: World) -> None:
    world.deliver([*rows(range(5), "A"), *rows(range(5, 9), "B")], ["A", "B"])
    for company in ("A", "B"):
        run_sql(world.databases[company], """DELETE FROM "order" WHERE id IN ('k1', 'k6')""")

    def lose_a() -> None:
        Path(sa.make_url(world.databases["A"]).database or "").unlink()
        with closing(connect(world.databases["B"])) as connection:
            insert(connection, [as_stored(row(6, "B"))])

    report = world.audit(settle_seconds=0.1, progress=once_compared(lose_a))
    assert faults(report) == {"A": {"missing": 1}}


STREAM = """
import sys, time
from contextlib import closing
from pathlib import Path
from lpm_stream_tests.audit.world import World, as_stored, connect, insert, rows

world = World(Path(sys.argv[1]))
with closing(connect(world.url("A"))) as connection:
    late = []
    for number in range(100, 600, 10):
        committed = rows(range(number, number + 10), "A")
        world.commit(committed)
        insert(connection, map(as_stored, late))
        late = committed
        print(number, flush=True)
        time.sleep(0.02)
    insert(connection, map(as_stored, late))
"""


def test_running_stream_is_clean_but_for_what_is_lost(world: World) -> None:
    world.deliver(rows(range(20), "A"), ["A"], wal=True)
    run_sql(world.databases["A"], """DELETE FROM "order" WHERE id = 'k7'""")
    stream = [sys.executable, "-c", STREAM, str(world.directory)]
    with subprocess.Popen(stream, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "100\n"
        report = world.audit(settle_seconds=2)
        process.stdout.read()
    assert process.returncode == 0
    assert faults(report) == {"A": {"missing": 1}}
    assert of(report, "A").examples == {"missing": (Example(("k7", 1)),)}
    assert report.settled_version is not None
    assert report.settled_version > report.version


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA synchronous = OFF")
for number in range(1, 1_000_000):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute('UPDATE "order" SET rowid = ?', (number,))
    connection.execute("COMMIT")
    if number == 1:
        print("started", flush=True)
"""


@pytest.fixture
def busy(world: World) -> Iterator[World]:
    """A's database is in WAL mode, and another process changes all its rows again and again."""
    world.deliver([*rows(range(5_000), "A", rowid=0), *rows(range(5_000, 5_010), "B")], ["A", "B"], wal=True)
    file = sa.make_url(world.databases["A"]).database or ""
    with subprocess.Popen([sys.executable, "-c", WRITER, file], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "started\n"
        yield world
        assert writer.poll() is None
        writer.kill()


@pytest.mark.parametrize("keys", [None, [(f"k{number}", number % 3) for number in range(5_000)]])
def test_database_is_read_as_one_snapshot_beside_a_writer(
    busy: World, keys: Sequence[tuple[KeyPart, ...]] | None
) -> None:
    with (
        scratch_space(busy.scratch) as space,
        database_rows(space.db, busy.spec, "A", busy.databases["A"], keys) as reader,
    ):
        numbers = reader.read_all()["rowid"].to_pylist()
    assert len(numbers) == 5_000
    assert len(set(numbers)) == 1


def test_writer_at_work_is_no_problem(busy: World) -> None:
    report = busy.audit()
    assert faults(report) == {"A": {"different": 5_000}}
    assert of(report, "A").examples["different"][0].columns == ("rowid",)
