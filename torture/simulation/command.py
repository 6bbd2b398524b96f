"""`python -m torture simulate`."""

import argparse
import random
import sys
import time
from collections.abc import Sequence

from torture.simulation.databases import KINDS
from torture.simulation.run import live, simulate


def main(arguments: Sequence[str]) -> int:
    """Crashes as often as is asked for; 1 if something was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m torture simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--points", type=int, default=10_000, help="number of crashes, with each kind of database")
    parser.add_argument("--databases", choices=KINDS, help="only this kind")
    parser.add_argument("--life", type=int, help="only this one, to see a failure again")
    chosen = parser.parse_args(arguments)
    good = True
    for kind in [chosen.databases] if chosen.databases else KINDS:
        begun = time.monotonic()
        if chosen.life is None:
            done = simulate(kind, chosen.seed, chosen.points)
        else:
            with KINDS[kind].serving() as place:
                done = live(kind, place, chosen.seed, chosen.life)
        seconds = time.monotonic() - begun
        print(
            f"{kind}, seed {chosen.seed}: {done.points.total():,} crashes at {len(done.points)} boundaries in "
            f"{seconds:.0f} s; {done.failure or 'each ended equal to the table'}"
        )
        good = good and not done.failure
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
