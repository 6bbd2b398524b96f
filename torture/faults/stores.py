"""A control store that is older than the databases, and clocks that jump."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from lpm_stream.control import progress
from torture.clock import jumping
from torture.fault import Fault, Sizes, Struck
from torture.seen import Seen
from torture.world import World, kill

_AHEAD_SECONDS = 7_200.0


def restore_control_store(world: World, sizes: Sizes) -> Struck:
    """The control store is restored from an older copy: the cursor goes back, and all since is sent again."""
    path, copy = world.home / "control.db", world.home / "control of yesterday.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    time.sleep(sizes.fault_seconds)
    world.stop_relay()
    newest = _published(world)
    assert world.traffic is not None
    kill(world.traffic)
    world.forget()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, path)
    found = _published(world)
    if found >= newest:
        raise RuntimeError("the copy is not older")
    status = world.status()
    world.ensure_running()
    time.sleep(sizes.fault_seconds)
    return Struck(1, status.feed["published_version"] == found, "had more than the control store knew")


def _published(world: World) -> int:
    cursor = progress.read_cursor(world.stream.store, world.stream.spec.name)
    return cursor.version if cursor else -1


def jump_clock(world: World, sizes: Sizes) -> Struck:
    """The relay's clock jumps forward by two hours, back by four, and returns."""
    world.stop_relay()
    shown = False
    jumps = ("+2h", "-2h", "+0")
    with jumping(world.home / "clock") as clock:
        world.start_relay(clock.environment)
        for jump in jumps:
            said = world.log.count("clock jumped by")
            clock.jump(jump)
            world.wait_for_log("clock jumped by", said)
            time.sleep(sizes.fault_seconds / len(jumps))
            shown = shown or _is_hours_late(world.status())
        world.stop_relay()
    world.start_relay()
    world.since = world.latencies()  # those across a jump are wrong by as much
    time.sleep(sizes.calm_seconds)
    return Struck(len(jumps), shown, "clock jumped by")


def _is_hours_late(status: Seen) -> bool:
    """Whether latencies are those of a clock two hours ahead."""
    return any((one["p99"] or 0.0) >= _AHEAD_SECONDS for one in status.feed["companies"])


FAULTS = (
    Fault("control store restored from an older copy", restore_control_store),
    Fault("clock jumps by hours", jump_clock),
)
