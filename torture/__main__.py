"""The fault suite: `python -m torture [--short] [FAULT ...]`, and `python -m torture simulate`."""

import argparse
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from lpm_stream_tests.kafka.broker import why_not
from torture.fault import LONG, SHORT, Fault, Finding, Sizes
from torture.faults import crowd, databases, doubles, hub, kills, pair, stores
from torture.pair import running_pair
from torture.report import Run, current_commit, show, write
from torture.simulation import command
from torture.simulation.databases import KINDS
from torture.simulation.run import simulate
from torture.suffer import suffer
from torture.world import World

_BUILD = Path("build")
_JSON = _BUILD / "torture.json"
_RATE, _CROWD_RATE = 1_000.0, 300.0  # changed rows a second
_COMPANIES = 6

_FEW = (*databases.FAULTS, *stores.FAULTS, *doubles.FAULTS, *hub.FAULTS, *kills.FAULTS)


def main() -> int:
    """Runs the suite, or the faults whose names contain one of those given."""
    if sys.argv[1:2] == ["simulate"]:
        return command.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--short", action="store_true", help="as CI does it, in some minutes")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("names", nargs="*", help="only faults whose names contain one of these")
    chosen = parser.parse_args()
    form = "short" if chosen.short else "long"
    run = Run(form, chosen.seed, current_commit(), complete=False, seconds=0.0, findings=())
    begun = time.monotonic()
    print(f"seed {run.seed}, commit {run.commit}", flush=True)
    try:
        with closing(_findings(chosen.names, SHORT if chosen.short else LONG, chosen.seed)) as found:
            for finding in found:
                print(finding, flush=True)
                run = replace(run, seconds=time.monotonic() - begun, findings=(*run.findings, finding))
                write(run, _JSON)
        run = replace(run, seconds=time.monotonic() - begun, complete=True)
    finally:  # also what there is when it is cut off
        write(run, _JSON)
        show(run, Console(width=170))
    return 0 if run.good else 1


def _findings(names: Sequence[str], sizes: Sizes, seed: int) -> Generator[Finding]:
    """Everything that is wanted, one after the other."""
    home = (_BUILD / "torture").absolute()
    shutil.rmtree(home, ignore_errors=True)
    yield from _run(_wanted(_FEW, names, sizes), _Place(home / "few", _COMPANIES, _RATE), sizes, seed)
    yield from _run(
        _wanted(crowd.FAULTS, names, sizes),
        _Place(home / "crowd", sizes.crowd, _CROWD_RATE),
        replace(sizes, calm_seconds=sizes.crowd_seconds),
        seed,
    )
    yield from _with_pair(names, home / "pair", sizes, seed)
    yield from _simulated(names, sizes, seed)


def _simulated(names: Sequence[str], sizes: Sizes, seed: int) -> Iterator[Finding]:
    """The same in one process, at every boundary, on every kind of database."""
    for kind in KINDS:
        name = f"crash simulated, {kind}"
        if _is_named(name, names):
            begun = time.monotonic()
            done = simulate(kind, seed, sizes.crash_points)
            unequal = None if done.failure else 0
            yield Finding(
                name,
                done.points.total(),
                lost=unequal,
                doubled=unequal,
                problem=done.failure,
                seconds=time.monotonic() - begun,
            )


def _with_pair(names: Sequence[str], home: Path, sizes: Sizes, seed: int) -> Iterator[Finding]:
    """The same with a real Kafka broker and a real PostgreSQL in place of the embedded parts; in short, less."""
    if not any(_is_named(name, names) for name in pair.NAMES):
        return
    if reason := why_not():
        yield Finding(pair.NAME, problem=reason)
        return
    with running_pair(home / "servers") as running:
        place = _Place(home, _COMPANIES, _RATE, running.places)
        yield from _run(_wanted(pair.faults(running), names, sizes), place, sizes, seed)


def _wanted(faults: Sequence[Fault], names: Sequence[str], sizes: Sizes) -> list[Fault]:
    """Those named; if none are, those of the form."""
    return [one for one in faults if _is_named(one.name, names) and (names or sizes.thorough or one.in_short)]


def _is_named(fault: str, names: Sequence[str]) -> bool:
    return not names or any(name in fault for name in names)


@dataclass(frozen=True)
class _Place:
    """What worlds are like."""

    home: Path
    companies: int
    rate: float
    places: Callable[[int], Mapping[str, str]] = lambda _number: {}


def _run(faults: Sequence[Fault], place: _Place, sizes: Sizes, seed: int) -> Iterator[Finding]:
    """Inflicts faults one after the other on the same stream; after one that went wrong, on a new one."""
    chance = random.Random(seed)
    world: World | None = None
    try:
        for number, fault in enumerate(faults):
            begun = time.monotonic()
            if world is None:
                home = place.home / str(number)
                world = World(home, place.companies, place.rate, chance, place.places(number))
            finding = replace(_one(world, fault, sizes), seconds=time.monotonic() - begun)
            if not finding.good:
                world.close()
                world = None
            yield finding
    finally:
        if world is not None:
            world.close()


def _one(world: World, fault: Fault, sizes: Sizes) -> Finding:
    try:
        return suffer(world, fault, sizes)
    except Exception as error:  # noqa: BLE001 - the others are to be tried all the same
        return Finding(fault.name, problem=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # as with Ctrl-C, all that was started ends
    sys.exit(main())
