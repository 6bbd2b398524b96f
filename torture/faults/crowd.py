"""Many companies, of which one hangs, or one in ten fails."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from lpm_stream.control import parking
from torture.fault import Fault, Sizes, Struck
from torture.world import World, locked, wait_until

_ONE_IN = 10


def hang_one(world: World, sizes: Sizes) -> Struck:
    """One company's database does not answer."""
    victim = world.companies[0]
    with locked(world.database(victim)):
        time.sleep(sizes.crowd_seconds)
        measured = world.latencies()
        wait_until(lambda: victim in world.parked(), "the company is not parked")
        status = world.status()
    shown = status.is_parked(victim, "is locked")
    return Struck(1, shown, f"{victim}' is parked", frozenset({victim}), measured)


def fail_many(world: World, sizes: Sizes) -> Struck:
    """One company in ten fails at once: half do not answer, half have lost their table."""
    known = [company for company in world.companies if world.database(company).exists()]
    victims = known[:: len(known) * _ONE_IN // len(world.companies)][: len(world.companies) // _ONE_IN]
    hanging, without = victims[::2], victims[1::2]
    with _without_table([world.database(one) for one in without]), locked(*map(world.database, hanging)):
        time.sleep(sizes.crowd_seconds)
        measured = world.latencies()
        noticed = world.parked().keys() & {*victims}
        status = world.status()
    for victim in victims:  # instead of waiting for the longest pause between tries
        parking.try_now(world.stream.store, world.stream.spec.name, victim)
    shown = len(noticed) > len(victims) / 2 and all(map(status.is_parked, noticed))
    shown = shown and any(status.is_parked(one, "is locked") for one in hanging)
    shown = shown and any(map(status.is_parked, without))
    return Struck(len(victims), shown, "is parked", frozenset(victims), measured)


@contextmanager
def _without_table(paths: Sequence[Path]) -> Iterator[None]:
    """Databases whose table is gone for a while."""
    _rename(paths, "tdr", "tdr_away")
    yield
    _rename(paths, "tdr_away", "tdr")


def _rename(paths: Sequence[Path], old: str, new: str) -> None:
    for path in paths:
        with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")


FAULTS = (
    Fault("1 company of the crowd hangs", hang_one, most_rise=0.10, in_short=False),
    Fault("1 in 10 of the crowd fails at once", fail_many, most_rise=0.20),
)
