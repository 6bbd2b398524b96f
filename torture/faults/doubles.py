"""Two of everything."""

import time

from torture.fault import Fault, Sizes, Struck
from torture.world import World, kill


def two_relays(world: World, sizes: Sizes) -> Struck:
    """A second relay publishes nothing and delivers half, and takes over when the first is killed."""
    first = world.relay
    assert first is not None
    its_share = "deliver: its share are partitions"
    already = world.log.count(its_share)
    world.relay = world.start("relay")
    world.wait_for_log(its_share, already + 1)  # each of the two
    time.sleep(sizes.fault_seconds / 2)
    kill(first)
    world.wait_for_delivery()
    time.sleep(sizes.fault_seconds / 2)
    status = world.status()
    return Struck(1, '"deliverer": "deliver@', status, its_share)


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
