import pytest

from lpm_stream.delivery import apply
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
