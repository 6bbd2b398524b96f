"""A backfill that is halted in its midst, so that there is time to look at it."""

import signal
import subprocess
from functools import partial

from lpm_stream.control import backfills
from torture.seen import Seen
from torture.world import World, wait_until

_TRIES = 10  # a backfill may be over before it is halted


def seen_loading(world: World, company: str) -> tuple[subprocess.Popen[str], Seen]:
    """Starts a backfill, halts it in its midst, and looks.

    Returns:
        The backfill, which goes on with SIGCONT, and the status meanwhile.

    Raises:
        RuntimeError: if it was over each time.
    """
    for _ in range(_TRIES):
        process = world.start("backfill", company)
        wait_until(partial(_is_loading_or_over, world, company, process), "no backfill begins")
        process.send_signal(signal.SIGSTOP)
        if _is_loading(world, company):
            return process, world.status()
        process.send_signal(signal.SIGCONT)
        process.wait(60)
    raise RuntimeError("every backfill was over before it could be looked at")


def is_shown_loading(status: Seen, company: str) -> bool:
    """Whether it says how far the company's backfill is."""
    return bool(status.company(company).get("backfill"))


def _is_loading_or_over(world: World, company: str, process: subprocess.Popen[str]) -> bool:
    return _is_loading(world, company) or process.poll() is not None


def _is_loading(world: World, company: str) -> bool:
    state = backfills.read(world.stream.store, world.stream.spec.name).get(company)
    return state is not None and state.finished_at is None
