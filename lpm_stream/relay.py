"""The relay: both drains, long-lived, for the lowest latency.

Each drain is a process of its own. In one process they would take turns at Python's interpreter lock and together
reach two thirds of the rows a second that they reach one after the other.
"""

import logging
import multiprocessing
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from lpm_stream.alerts import raised
from lpm_stream.alerts.run import run as run_alerts
from lpm_stream.control import leases
from lpm_stream.control.store import ControlStore
from lpm_stream.errors import HubError, LeaseLostError, LpmStreamError, told
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream

log = logging.getLogger(__name__)

_PROCESSES = multiprocessing.get_context("spawn")
_STANDBY_SECONDS = 2.0  # between looks at a lease that another worker holds
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between tries after an error
_STOP_SECONDS = 4.0
_LOOK_SECONDS = 0.2
_ALERT_SECONDS = 30.0  # between looks at what is wrong; the first comes when both drains are at work


def relay(settings: Settings, spec: FeedSpec, stop: threading.Event, prepare: Callable[[], None]) -> None:
    """Publishes and delivers until `stop` is set; stands by while other workers do.

    Errors that an operator can mend (a missing table, an unreadable hub) are logged and tried again.

    Args:
        settings: where everything is.
        spec: the feed.
        stop: ends the relay, once the transactions in hand are finished.
        prepare: called first in the publishing process, to set up logging; a module's function.

    Raises:
        LpmStreamError: if the control store cannot be opened, or the setting of the hub is wrong.
    """

    def go_on() -> bool:
        return not stop.is_set()

    def deliver() -> bool:
        with open_stream(settings, spec) as stream:
            _again_and_again("deliver", lambda: _deliver_once(stream, go_on), go_on, stop)
        return False

    with _publishing(settings, spec, stop, prepare), _alerting(settings, spec, stop):
        _again_and_again("deliver", deliver, go_on, stop, mended=HubError)


@contextmanager
def _publishing(
    settings: Settings, spec: FeedSpec, stop: threading.Event, prepare: Callable[[], None]
) -> Iterator[None]:
    """Keeps a publishing process running; one that dies is followed by another."""
    over = threading.Event()

    def keep() -> None:
        while not (over.is_set() or stop.is_set()):
            process = _PROCESSES.Process(target=_publish, args=(settings, spec, prepare), name="publish")
            try:
                process.start()
            except Exception as error:  # noqa: BLE001 - whatever it is: nobody else starts one
                _log_failure("publish", error)
                over.wait(_LONGEST_PAUSE)
                continue
            while process.is_alive() and not stop.is_set() and not over.wait(_LOOK_SECONDS):
                pass
            if over.is_set() or stop.is_set():  # beside the deliverer, which takes its time to stop, too
                process.terminate()
                process.join(_STOP_SECONDS)
                process.kill()
                return
            log.error("publish: its process died (exit code %s); starting another", process.exitcode)
            if process.exitcode:
                _note_death(settings, spec, process.exitcode)
            over.wait(_FIRST_PAUSE)

    keeper = threading.Thread(target=keep, name="keep-publishing")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _note_death(settings: Settings, spec: FeedSpec, exit_code: int) -> None:
    try:
        with closing(ControlStore(settings.control_url)) as store:
            raised.publisher_died(store, spec.name, exit_code)
    except Exception as error:  # noqa: BLE001 - another process is to be started all the same
        _log_failure("publish", error)


def _log_failure(role: str, error: Exception) -> None:
    if isinstance(error, LpmStreamError):
        log.error("%s: %s", role, error)
        return
    frames = "".join(traceback.format_tb(error.__traceback__))  # without the message: it may quote rows
    log.error("%s: %s\n%s", role, told(error), frames)


@contextmanager
def _alerting(settings: Settings, spec: FeedSpec, stop: threading.Event) -> Iterator[None]:
    """Looks for what is wrong, and tells it, beside the drains, and also while the hub cannot be opened."""
    over = threading.Event()

    def go_on() -> bool:
        return not (over.is_set() or stop.is_set())

    def keep() -> None:
        while not over.wait(_ALERT_SECONDS):
            try:
                with open_stream(settings, spec, needs_hub=False) as stream:
                    run_alerts(stream, go_on=go_on)
            except Exception as error:  # noqa: BLE001 - the next look may do better, and nobody else looks
                _log_failure("alerts", error)

    keeper = threading.Thread(target=keep, name="keep-alerting", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join(_LOOK_SECONDS)  # what it has in hand is told again next time


def _deliver_once(stream: Stream, go_on: Callable[[], bool]) -> bool:
    return stream.deliverer().drain(go_on=go_on, shared=True).standby


def _publish(settings: Settings, spec: FeedSpec, prepare: Callable[[], None]) -> None:
    """The publishing process. It ends when it is told to, and when its parent has died."""
    prepare()
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the parent ends this one
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    parent = multiprocessing.parent_process()

    def go_on() -> bool:
        return not stop.is_set() and (parent is None or parent.is_alive())

    def publish() -> bool:
        with open_stream(settings, spec) as stream:
            _again_and_again("publish", lambda: _publish_once(stream, go_on), go_on, stop)
        return False

    _again_and_again("publish", publish, go_on, stop, mended=HubError)


def _publish_once(stream: Stream, go_on: Callable[[], bool]) -> bool:
    pause = stream.settings.poll_seconds
    return stream.publisher().drain(poll_seconds=pause, go_on=go_on, at_once=lambda: not go_on()).standby


def _again_and_again(
    role: str,
    drain: Callable[[], bool],
    go_on: Callable[[], bool],
    stop: threading.Event,
    *,
    mended: type[LpmStreamError] = LpmStreamError,
) -> None:
    """Runs a drain for as long as it may; it ends early when it stands by, has lost its lease, or fails.

    Args:
        role: what it does, for the log.
        drain: the drain; it returns whether it stands by.
        go_on: whether it may.
        stop: ends a pause.
        mended: the errors after which it is tried again.
    """
    pause = _FIRST_PAUSE
    standing_by = False
    while go_on():
        begun = time.monotonic()
        try:
            standby = drain()
        except LeaseLostError as error:
            log.warning("%s: %s", role, error)
            standby = True
        except mended as error:
            if time.monotonic() - begun > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE  # all was well for a while
            log.error("%s: %s (next try in %.0f s)", role, error, pause)  # noqa: TRY400 - one line says it
            stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, _LONGEST_PAUSE)
            continue
        if standby:
            if not standing_by:
                log.info("%s: another worker is at it; standing by", role)
            stop.wait(min(_STANDBY_SECONDS, leases.TTL.total_seconds()))
        else:
            pause = _FIRST_PAUSE
        standing_by = standby
