"""Lives of streams, one after the other, until there were enough crashes."""

import logging
import random
from collections import Counter
from dataclasses import dataclass, field

from lpm_stream_tests.delivery.faults import Bomb
from torture.simulation.databases import Databases
from torture.simulation.life import Life, Point, small_steps

_ACTS_A_LIFE = 40


@dataclass
class Simulated:
    """What the simulation saw.

    Attributes:
        points: the crashes, by what was at work and where.
        failure: the first one after which something was not equal, and how to see it again; empty if none was.
    """

    points: Counter[Point] = field(default_factory=Counter)
    failure: str = ""


def simulate(databases: Databases, seed: int, points: int, first_life: int = 0) -> Simulated:
    """Crashes so many times, or until something is lost or doubled.

    Args:
        databases: what kind of company databases.
        seed: what happens follows from it.
        points: number of crashes.
        first_life: where to begin, to see a failure again.
    """
    logging.getLogger("lpm_stream").setLevel(logging.CRITICAL)
    done = Simulated()
    bomb = Bomb(for_good=True)
    life_number = first_life
    with small_steps(bomb, databases):
        while done.points.total() < points and not done.failure:
            _live(databases, seed, life_number, bomb, done, points)
            life_number += 1
    return done


def _live(databases: Databases, seed: int, number: int, bomb: Bomb, done: Simulated, points: int) -> None:
    """One life; it depends on nothing but the seed and its number."""
    random.seed(f"{seed} {number}")  # of the pauses between tries
    bomb.set(None)
    life = Life(random.Random(f"{seed} {number}"), bomb, databases)
    longest: dict[str, int] = {}
    try:
        for act in range(_ACTS_A_LIFE):
            if done.points.total() == points:
                return
            point = life.crash(longest)
            if point is not None:
                done.points[point] += 1
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be seen again
        again = f"python -m torture simulate --seed {seed} --life {number} --databases {databases.kind}"
        done.failure = f"act {act}: {type(error).__name__}: {error}\n  to see it again: {again}"
    finally:
        bomb.set(None)
        life.close()
