"""Two of everything."""

import time

from torture.fault import Fault, Sizes, Struck
from torture.world import World, kill


def two_relays(world: World, sizes: Sizes) -> Struck:
    """A second relay stands by, and takes over when the first is killed."""
    first = world.relay
    assert first is not None
    standing_by = "another worker is at it; standing by"
    already = world.log.count(standing_by)
    world.relay = world.start("relay")
    world.wait_for_log(standing_by, already + 1)  # each of its drains
    time.sleep(sizes.fault_seconds / 2)
    kill(first)
    world.wait_for_delivery()
    time.sleep(sizes.fault_seconds / 2)
    status = world.status()
    return Struck(1, '"deliverer": "deliver@', status, "standing by")


def backfill_beside_relay(world: World, sizes: Sizes) -> Struck:
    """Companies are loaded from the table, two at a time, while the stream goes on for all, these included."""
    victims = frozenset(world.companies[:2])
    status = ""
    deadline = time.monotonic() + sizes.fault_seconds
    times = 0
    while time.monotonic() < deadline or not times:
        loads = [
            world.start("backfill", company, *arguments)
            for company, arguments in zip(sorted(victims), [(), ("--replace",)], strict=True)
        ]
        for one in loads:
            if one.wait(120):
                raise RuntimeError("a backfill failed; the log says why")
        times += len(loads)
    status = world.status()
    return Struck(times, '"state": "streaming"', status, "is loaded: ", victims)


FAULTS = (
    Fault("two relays at once, one killed", two_relays),
    Fault("backfill beside a relay", backfill_beside_relay),
)
