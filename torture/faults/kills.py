"""`kill -9` at random moments of everything that writes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lpm_stream.control import leases, quarantine
from torture.fault import Fault, Sizes, Struck
from torture.faults import picky
from torture.faults.loading import is_shown_loading, seen_loading
from torture.world import World, kill, wait_until

_TRIES = 10  # for each kill: a process may be done before it comes
_PUBLISHER_SHARE = 1 / 3  # of the kills of a relay
_REFUSED = 9  # rows in quarantine, to be replayed


def kill_relay(world: World, sizes: Sizes) -> Struck:
    """The relay while it delivers: the whole of it, the process that delivers, or the one that publishes."""
    shown: list[bool] = []
    for _ in range(sizes.kills):
        world.wait_for_delivery()
        time.sleep(world.chance.uniform(0, 1.2))
        assert world.relay is not None
        if world.chance.random() < _PUBLISHER_SHARE:
            _kill_child(world.relay)  # the relay starts it anew
            continue
        world.chance.choice([kill, _kill_parent])(world.relay)
        world.relay.wait(30)
        if not shown:
            shown.append(_nobody_delivers(world))
        world.start_relay()
    if not shown:
        assert world.relay is not None
        kill(world.relay)
        shown.append(_nobody_delivers(world))
        world.start_relay()
    return Struck(sizes.kills, all(shown), "has died")


def _nobody_delivers(world: World) -> bool:
    return not world.status().workers("deliverer")


def kill_drains(role: leases.Role, world: World, sizes: Sizes) -> Struck:
    """The command `publish` or `deliver`, while the other one runs to its end now and then."""
    world.stop_relay()
    other = "deliver" if role == "publish" else "publish"
    name = leases.lease_name(role, world.stream.spec.name)

    def attempt() -> bool:
        world.run(other)
        return _killed_at_work(world, name, world.start(role), 0.15)

    _kill_often(sizes.kills, attempt)
    status = world.status()
    world.start_relay()
    return Struck(sizes.kills, not status.workers(f"{role}er"), "has died")


def kill_backfill(world: World, sizes: Sizes) -> Struck:
    """The command `backfill` of any company, with and without `--replace`, beside a relay."""
    looked_at = world.companies[0]
    halted, status = seen_loading(world, looked_at)
    kill(halted)

    def attempt() -> bool:
        company = world.chance.choice(world.companies)
        name = leases.lease_name("backfill", world.stream.spec.name, company)
        process = world.start("backfill", company, *world.chance.choice([(), ("--replace",)]))
        return _killed_at_work(world, name, process, 0.3)

    _kill_often(sizes.kills, attempt)
    return Struck(sizes.kills, is_shown_loading(status, looked_at), "has died")


def kill_replay(world: World, sizes: Sizes) -> Struck:
    """The command `quarantine replay`, while the table still refuses the rows, and when it takes them."""
    company = world.companies[0]
    name = leases.lease_name(
        "backfill", world.stream.spec.name, company
    )  # whoever brings rows of the table has it

    def attempt() -> bool:
        return _killed_at_work(world, name, world.start("quarantine", "replay", "--all"), 0.15)

    def attempt_to_deliver() -> bool:
        _have_refused(world, company)
        picky.accept_all(world, company)
        return attempt()

    _have_refused(world, company)
    picky.refuse_known(world, company)
    _kill_often(sizes.kills - sizes.kills // 2, attempt)
    status = world.status()
    _kill_often(sizes.kills // 2, attempt_to_deliver)
    picky.accept_all(world, company)
    done = world.run("quarantine", "replay", "--all")
    if done.returncode:
        raise RuntimeError(f"the replay failed: {done.stderr}")
    shown = status.company(company)["quarantined"] > 0
    return Struck(sizes.kills, shown, "are in quarantine", frozenset({company}))


def _have_refused(world: World, company: str) -> None:
    """Makes sure that there is something to be replayed."""
    if _in_quarantine(world) > _REFUSED:
        return
    picky.refuse(world, company)
    wait_until(lambda: _in_quarantine(world) > _REFUSED, "nothing is refused")


def _kill_often(kills: int, attempt: Callable[[], bool]) -> None:
    """Tries again and again, until something was killed at work so many times.

    Raises:
        RuntimeError: if it was over before that too often.
    """
    done = tries = 0
    while done < kills:
        if tries == kills * _TRIES:
            raise RuntimeError(f"of {tries} processes only {done} were killed at work, instead of {kills}")
        done += attempt()
        tries += 1


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


def _kill_parent(process: subprocess.Popen[str]) -> None:
    process.kill()


def _kill_child(process: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)


def _in_quarantine(world: World) -> int:
    return sum(quarantine.counts(world.stream.store, world.stream.spec.name).values())


FAULTS = (
    Fault("kill -9: relay", kill_relay, in_short=False),
    Fault("kill -9: publish", partial(kill_drains, "publish")),
    Fault("kill -9: deliver", partial(kill_drains, "deliver")),
    Fault("kill -9: backfill", kill_backfill),
    Fault("kill -9: replay", kill_replay),
)
