"""Lives of streams, several at once, until there were enough crashes."""

import logging
import multiprocessing
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from lpm_stream_tests.delivery.faults import Bomb, Crash
from torture.simulation.databases import KINDS
from torture.simulation.life import Life, Point, small_steps

_ACTS = 12  # in a life: the longer the table's history, the longer it takes to read
_LIVES_AT_ONCE = 20  # for each core


@dataclass
class Simulated:
    """What the simulation saw.

    Attributes:
        points: the crashes, by what was at work and where.
        failure: the first one after which something was not equal, and how to see it again; empty if none was.
    """

    points: Counter[Point] = field(default_factory=Counter)
    failure: str = ""


def simulate(kind: str, seed: int, points: int, first_life: int = 0) -> Simulated:
    """Crashes so many times or some more, or until something is lost or doubled.

    Args:
        kind: of company databases.
        seed: what happens follows from it.
        points: number of crashes.
        first_life: where to begin, to see a failure again.
    """
    done = Simulated()
    cores = os.cpu_count() or 1
    numbers = count(first_life)
    spawn = multiprocessing.get_context("spawn")
    with KINDS[kind].serving() as place, ProcessPoolExecutor(cores, spawn) as processes:
        while done.points.total() < points and not done.failure:
            some = [next(numbers) for _ in range(min(cores * _LIVES_AT_ONCE, points // _ACTS + 1))]
            for life in processes.map(partial(live, kind, place, seed), some):
                done.points.update(life.points)
                done.failure = done.failure or life.failure
    return done


def live(kind: str, place: str, seed: int, number: int) -> Simulated:
    """One life; what happens in it depends on nothing but the seed and its number."""
    random.seed(f"{seed} {number}")  # of the pauses between tries
    done = Simulated()
    bomb = Bomb(for_good=True)
    databases = KINDS[kind].at(place)
    with _silence(), small_steps(bomb, databases):
        life = Life(random.Random(f"{seed} {number}"), bomb, databases)
        longest: dict[str, int] = {}
        try:
            for _ in range(_ACTS):
                point = life.crash(longest)
                if point is not None:
                    done.points[point] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is to be seen again
            again = f"python -m torture simulate --databases {kind} --seed {seed} --life {number}"
            done.failure = f"{type(error).__name__}: {error}\n  to see it again: {again}"
        finally:
            bomb.set(None)
            life.close()
    return done


@contextmanager
def _silence() -> Iterator[None]:
    """What is logged of thousands of crashes, also in threads of their own, tells nobody anything."""
    log = logging.getLogger("lpm_stream")
    level, hook = log.level, threading.excepthook
    log.setLevel(logging.CRITICAL)
    threading.excepthook = lambda crash: None if crash.exc_type is Crash else hook(crash)
    try:
        yield
    finally:
        log.setLevel(level)
        threading.excepthook = hook
