from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lpm_stream.control import parking

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_parked_company_is_remembered_until_it_is_not(store):
    state = parking.park("it's 🚑", 3, 17, NOW, "down")
    with store.write() as connection:
        parking.write_parked(connection, "f", state.company, state)
        parking.write_parked(connection, "other", state.company, None)
    assert parking.read_parked(store, "f") == {state.company: state}
    assert parking.read_parked(store, "other") == {}
    again = state.failed_again("still down", "fault")
    with store.write() as connection:
        parking.write_parked(connection, "f", state.company, again)
    assert parking.read_parked(store, "f") == {state.company: again}
    with store.write() as connection:
        parking.write_parked(connection, "f", state.company, None)
    assert parking.read_parked(store, "f") == {}


def test_the_pause_doubles_up_to_a_minute():
    state = parking.park("A", 0, 1, NOW, "down")
    for attempts in range(1, 3_000):
        assert state.attempts == attempts
        pause = state.next_try_at - datetime.now(UTC)
        longest = min(2.0 ** min(attempts - 1, 16), 60)
        assert timedelta(seconds=longest / 2 - 1) < pause <= timedelta(seconds=longest)
        state = state.failed_again("still down", "fault")
    assert state.reason == "still down"
    assert state.sequence_number == 1


def test_a_try_further_off_than_any_pause_is_due():
    state = parking.park("A", 0, 1, NOW, "down")
    assert not state.is_due(state.next_try_at - timedelta(seconds=0.1))
    assert state.is_due(state.next_try_at)
    assert state.is_due(state.next_try_at - timedelta(hours=2))  # the clock was set back


def test_a_long_reason_is_cut(store):
    with store.write() as connection:
        parking.write_parked(connection, "f", "A", parking.park("A", 0, 1, NOW, "r" * 9_000))
    assert parking.read_parked(store, "f")["A"].reason == "r" * 2_000


def test_how_long_it_was_held_is_not_held_against_it():
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    fault = replace(parking.park("A", 0, 1, long_ago, "down"), since=long_ago)
    held = replace(fault, kind="held")
    assert held.failed_again("still", "held").since == long_ago
    assert fault.failed_again("still", "fault").since == long_ago
    assert fault.catching_up().since == long_ago
    assert held.failed_again("down", "fault").since > long_ago
    resumed = held.catching_up()
    assert (resumed.since > long_ago, resumed.kind, resumed.reason) == (True, "fault", parking.RESUMED)
    assert resumed.catching_up() == resumed
