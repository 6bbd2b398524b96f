import signal
import subprocess
import sys
import threading

import pytest

from lpm_stream.components.stopping import for_seconds, notice_signals

PROGRAM = """
import signal, time
from lpm_stream.components.stopping import for_seconds, notice_signals
notice_signals()
notice_signals()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda *_: print("handled", flush=True))  # as Dagster does once it has loaded
go_on = for_seconds(60)
print("ready", flush=True)
while go_on():
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_runs_and_is_handled_as_before(number):
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "handled\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.stdout.readline() == "handled\n"
        assert process.wait(30) == 0


def test_time_ends_what_runs():
    assert for_seconds(3600)()
    assert not for_seconds(0)()


def test_threads_and_listeners_are_left_alone():
    listening = signal.set_wakeup_fd(-1)
    try:
        thread = threading.Thread(target=notice_signals)
        thread.start()
        thread.join()
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.set_wakeup_fd(listening)
