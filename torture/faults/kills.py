"""`kill -9` at random moments of everything that writes."""

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from functools import partial
from pathlib import Path

from lpm_stream.control import backfills, leases, quarantine
from torture.fault import Fault, Sizes, Struck
from torture.world import World, kill, wait_until

_TRIES = 4  # for each kill: a process may be done before it comes
_PUBLISHER_SHARE = 1 / 3  # of the kills of a relay
_REFUSED = 9  # rows in quarantine, to be replayed


def kill_relay(world: World, sizes: Sizes) -> Struck:
    """The relay while it delivers: the whole of it, the process that delivers, or the one that publishes."""
    status = ""
    for _ in range(sizes.kills):
        world.wait_for_delivery()
        time.sleep(world.chance.uniform(0, 1.2))
        assert world.relay is not None
        if world.chance.random() < _PUBLISHER_SHARE:
            _kill_child(world.relay)  # the relay starts it anew
            continue
        world.chance.choice([kill, _kill_parent])(world.relay)
        world.relay.wait(30)
        status = status or world.status()
        world.start_relay()
    if not status:
        assert world.relay is not None
        kill(world.relay)
        status = world.status()
        world.start_relay()
    return Struck(sizes.kills, '"deliverer": null', status, "has died")


def kill_drains(role: leases.Role, world: World, sizes: Sizes) -> Struck:
    """The command `publish` or `deliver`, while the other one runs to its end now and then."""
    world.stop_relay()
    other = "deliver" if role == "publish" else "publish"
    name = leases.lease_name(role, world.stream.spec.name)
    kills = 0
    for _ in range(sizes.kills * _TRIES):
        world.run(other)
        process = world.start(role)
        kills += _killed_at_work(world, name, process, 0.15)
        if kills == sizes.kills:
            break
    status = world.status()
    world.start_relay()
    return Struck(kills, f'"{role}er": null', status, "has died")


def kill_backfill(world: World, sizes: Sizes) -> Struck:
    """The command `backfill` of any company, with and without `--replace`, beside a relay."""
    kills = 0
    status = _while_loading(world)
    for _ in range(sizes.kills * _TRIES):
        company = world.chance.choice(world.companies)
        name = leases.lease_name("backfill", world.stream.spec.name, company)
        process = world.start("backfill", company, *world.chance.choice([(), ("--replace",)]))
        kills += _killed_at_work(world, name, process, 0.3)
        if kills == sizes.kills:
            break
    return Struck(kills, '"backfill": {', status, "has died")


def _while_loading(world: World) -> str:
    """The status while a backfill is at work: one that is halted in its midst, and killed then."""
    company = world.companies[0]
    for _ in range(_TRIES):
        process = world.start("backfill", company)
        wait_until(partial(_is_loading_or_over, world, company, process), "no backfill begins")
        process.send_signal(signal.SIGSTOP)
        if _is_loading(world, company):
            status = world.status()
            kill(process)
            return status
        process.send_signal(signal.SIGCONT)
        process.wait(60)
    raise RuntimeError("every backfill was over before it could be looked at")


def _is_loading_or_over(world: World, company: str, process: subprocess.Popen[str]) -> bool:
    return _is_loading(world, company) or process.poll() is not None


def _is_loading(world: World, company: str) -> bool:
    state = backfills.read(world.stream.store, world.stream.spec.name).get(company)
    return state is not None and state.finished_at is None


def kill_replay(world: World, sizes: Sizes) -> Struck:
    """The command `quarantine replay`, first while the table still refuses the rows, then when it takes them."""
    company = world.companies[0]
    _refuse(world.database(company), "true")
    wait_until(lambda: _in_quarantine(world) > _REFUSED, "nothing is refused")
    _refuse(world.database(company), f"NEW.tdr_id <= '{_newest(world.database(company))}'")
    status = world.status()
    begun = time.monotonic()
    world.run("quarantine", "replay", "--all")
    duration = time.monotonic() - begun
    kills = 0
    for attempt in range(sizes.kills * _TRIES):
        if attempt == sizes.kills // 2:
            _take_again(world.database(company))
        process = world.start("quarantine", "replay", "--all")
        time.sleep(duration * world.chance.uniform(0.4, 1.0))
        kills += _killed(process)
        if kills == sizes.kills:
            break
    _take_again(world.database(company))
    done = world.run("quarantine", "replay", "--all")
    if done.returncode:
        raise RuntimeError(f"the replay failed: {done.stderr}")
    return Struck(kills, '"quarantined": 1', status, "are in quarantine", frozenset({company}))


def _killed_at_work(world: World, lease: str, process: subprocess.Popen[str], within: float) -> bool:
    """Kills a command so many seconds or less after it has its lease; whether it still had it."""
    wait_until(lambda: _is_at_it(world, lease, process), "the command does not begin")
    time.sleep(world.chance.uniform(0, within))
    process.send_signal(signal.SIGSTOP)
    at_work = lease in leases.holders(world.stream.store)
    kill(process)
    return at_work


def _is_at_it(world: World, lease: str, process: subprocess.Popen[str]) -> bool:
    return lease in leases.holders(world.stream.store) or process.poll() is not None


def _killed(process: subprocess.Popen[str]) -> bool:
    kill(process)
    return process.returncode == -signal.SIGKILL


def _kill_parent(process: subprocess.Popen[str]) -> None:
    process.kill()


def _kill_child(process: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)


def _in_quarantine(world: World) -> int:
    return sum(quarantine.counts(world.stream.store, world.stream.spec.name).values())


def _refuse(path: Path, which: str) -> None:
    """Has a customer's own trigger refuse one row in about 100."""
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        for event in ("INSERT", "UPDATE"):
            connection.execute(f"DROP TRIGGER IF EXISTS picky_{event}")
            connection.execute(
                f"CREATE TRIGGER picky_{event} BEFORE {event} ON tdr "
                f"WHEN NEW.caller_number LIKE '%77' AND {which} "
                f"BEGIN SELECT RAISE(ABORT, 'not here'); END"
            )


def _take_again(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        for event in ("INSERT", "UPDATE"):
            connection.execute(f"DROP TRIGGER IF EXISTS picky_{event}")


def _newest(path: Path) -> str:
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        return str(connection.execute("SELECT max(tdr_id) FROM tdr").fetchone()[0])


FAULTS = (
    Fault("kill -9: relay", kill_relay),
    Fault("kill -9: publish", partial(kill_drains, "publish")),
    Fault("kill -9: deliver", partial(kill_drains, "deliver")),
    Fault("kill -9: backfill", kill_backfill),
    Fault("kill -9: replay", kill_replay),
)
