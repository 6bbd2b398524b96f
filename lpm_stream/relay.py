"""The relay: both drains in one long-lived process, for the lowest latency."""

import logging
import random
import threading
from collections.abc import Callable

from lpm_stream.control import leases
from lpm_stream.errors import LeaseLostError, LpmStreamError
from lpm_stream.stream import Stream

log = logging.getLogger(__name__)

_STANDBY_SECONDS = 2.0  # between looks at a lease that another worker holds
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between tries after an error


def relay(stream: Stream, stop: threading.Event) -> None:
    """Publishes and delivers until `stop` is set; stands by while other workers do.

    Errors that an operator can mend (a missing table, an unreadable hub) are logged and tried again.

    Raises:
        Exception: whatever is not an `LpmStreamError` ends the relay.
    """
    failures: list[BaseException] = []

    def watched(role: str, drain: Callable[[], bool]) -> None:
        try:
            _again_and_again(role, drain, stop)
        except BaseException as error:
            failures.append(error)
            stop.set()
            raise

    def go_on() -> bool:
        return not stop.is_set()

    def publish() -> bool:
        drain = stream.publisher().drain
        return drain(poll_seconds=stream.settings.poll_seconds, go_on=go_on).standby

    def deliver() -> bool:
        return stream.deliverer().drain(go_on=go_on).standby

    threads = [
        threading.Thread(target=watched, args=(role, drain), name=role)
        for role, drain in (("publish", publish), ("deliver", deliver))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _again_and_again(role: str, drain: Callable[[], bool], stop: threading.Event) -> None:
    """Runs a drain until `stop`; it ends early when it stands by, has lost its lease, or fails."""
    pause = _FIRST_PAUSE
    standing_by = False
    while not stop.is_set():
        try:
            standby = drain()
        except LeaseLostError as error:
            log.warning("%s: %s", role, error)
            standby = True
        except LpmStreamError as error:
            log.error("%s: %s (next try in %.0f s)", role, error, pause)  # noqa: TRY400 - one line says it
            stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE)
            continue
        pause = _FIRST_PAUSE
        if standby:
            if not standing_by:
                log.info("%s: another worker is at it; standing by", role)
            stop.wait(min(_STANDBY_SECONDS, leases.TTL.total_seconds()))
        standing_by = standby
