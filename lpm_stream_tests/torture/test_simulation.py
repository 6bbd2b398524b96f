from contextlib import closing, suppress

import pytest
import sqlalchemy as sa

from lpm_stream.delivery import apply
from lpm_stream_tests.delivery.databases import changes, merge
from lpm_stream_tests.delivery.faults import Bomb, Crash, put_steps_between
from lpm_stream_tests.example import SPEC
from torture.simulation.databases import KINDS
from torture.simulation.run import live


@pytest.mark.parametrize("kind", KINDS)
def test_a_life_of_crashes_ends_equal_to_the_table_and_can_be_lived_again(kind):
    with KINDS[kind].serving() as place:
        first, second = live(kind, place, 1, 0), live(kind, place, 1, 0)
    assert first.failure == ""
    assert first.points
    assert first == second


def test_what_is_lost_is_found_and_the_seed_is_named(monkeypatch):
    monkeypatch.setattr(apply, "_net", lambda _spec, rows: rows.clear())  # a deliverer that writes nothing
    assert live("sqlite", "", 1, 0).failure.endswith("simulate --databases sqlite --seed 1 --life 0")


def test_postgresql_crashes_before_and_after_rows_are_staged(postgresql_url, monkeypatch):
    kind = KINDS["postgresql"].at("")
    bomb = Bomb()
    put_steps_between(bomb, monkeypatch, kind.database, kind.transaction, kind.within_merge)
    crashed_at = []
    with closing(kind.database(SPEC, "A", sa.make_url(postgresql_url))) as database:
        for steps in range(6):
            bomb.set(steps)
            with suppress(Crash):
                merge(database, changes("insert", "1"), 1)
            crashed_at.append(bomb.crashed_at)
    assert crashed_at == [
        "before PostgresqlDatabase.transaction",
        "after clearing the stage",
        "after staging",
        "after merge",
        "before the commit of PostgresqlDatabase.transaction",
        "after the commit of PostgresqlDatabase.transaction",
    ]
