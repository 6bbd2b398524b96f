"""Two of everything."""

import signal
import subprocess
import time

from torture.fault import Fault, Sizes, Struck
from torture.faults.loading import is_shown_loading, seen_loading
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
    two = world.status()
    kill(first)
    world.wait_for_delivery()
    time.sleep(sizes.fault_seconds / 2)
    one = world.status()
    shown = [len(seen.workers(role)) for seen in (two, one) for role in ("publisher", "deliverer")]
    return Struck(1, shown == [1, 2, 1, 1], its_share)


def backfill_beside_relay(world: World, sizes: Sizes) -> Struck:
    """Companies are loaded from the table, two at a time, while the stream goes on for all, these included."""
    looked_at, rebuilt = victims = world.companies[:2]
    halted, status = seen_loading(world, looked_at)
    halted.send_signal(signal.SIGCONT)
    _finish(halted)
    times = 1
    deadline = time.monotonic() + sizes.fault_seconds
    while time.monotonic() < deadline or times == 1:
        loads = [world.start("backfill", looked_at), world.start("backfill", rebuilt, "--replace")]
        for one in loads:
            _finish(one)
        times += len(loads)
    return Struck(times, is_shown_loading(status, looked_at), "is loaded: ", frozenset(victims))


def _finish(backfill: subprocess.Popen[str]) -> None:
    if backfill.wait(120):
        raise RuntimeError("a backfill failed; the log says why")


FAULTS = (
    Fault("two relays at once, one killed", two_relays, in_short=False),
    Fault("backfill beside a relay", backfill_beside_relay, in_short=False),
)
