"""When a drain inside a sensor tick ends: at its deadline, or as soon as its process is told to stop.

Dagster's code server takes SIGTERM and SIGINT for a request to finish the calls in hand, for which it waits up to
a minute. A tick is such a call, so it has to learn of the signal by itself. A signal handler cannot tell it:
Dagster puts its own back once the definitions are loaded, and ticks run outside the main thread.
"""

import os
import signal
import threading
import time
from collections.abc import Callable

_told_to_stop = threading.Event()


def notice_signals() -> None:
    """From now on SIGTERM and SIGINT end running ticks, beside what else they do in this process.

    Does nothing outside the main thread, or where something else listens to the process's signals already.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    listening = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if listening != -1:
        signal.set_wakeup_fd(listening)
        os.close(reader)
        os.close(writer)
        return
    threading.Thread(target=_listen, args=(reader,), name="notice-signals", daemon=True).start()


def _listen(reader: int) -> None:
    while numbers := os.read(reader, 64):  # a byte for each signal
        if not {signal.SIGTERM, signal.SIGINT}.isdisjoint(numbers):
            _told_to_stop.set()


def until_told_to_stop() -> bool:
    """True unless the process was told to stop."""
    return not _told_to_stop.is_set()


def for_seconds(seconds: float) -> Callable[[], bool]:
    """True for so long from now, unless the process is told to stop before."""
    deadline = time.monotonic() + seconds

    def go_on() -> bool:
        return time.monotonic() < deadline and until_told_to_stop()

    return go_on
