"""The demo that the stories are told on."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lpm_stream.feed.load import load_feeds
from lpm_stream.settings import Settings
from lpm_stream.source.simulate import Simulator
from lpm_stream_tests.alerts.servers import free_port

NEW = "ACME"  # a company that has rows in the table and is nobody's customer yet
ROWS = 600
_START_SECONDS, _STOP_SECONDS = 90, 60


@dataclass(frozen=True)
class Demo:
    """A running demo: its home directory and the address of its webserver."""

    home: Path
    url: str

    def command(self, *words: str) -> str:
        """What a command prints in the operator's terminal; it has to end well."""
        command = [sys.executable, "-m", "lpm_stream", *words, "--dir", str(self.home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """The demo with a wrong legacy file, at the moment in which its traffic begins."""
    home, port = tmp_path / "home", free_port()
    write_history(Settings.load(home))
    asked = ["--companies", "2", "--rate", "20", "--fault", "missing-row"]
    places = ["--dir", str(home), "--port", str(port)]
    command = [sys.executable, "-m", "lpm_stream", "demo", *asked, *places]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("streaming"):
                break
        assert process.poll() is None, said
        url = f"http://localhost:{port}"
        wait_for(url)
        yield Demo(home, url)
        assert len(processes_of(home)) > 2, "not even webserver and daemon are seen"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_STOP_SECONDS)
    assert processes_of(home) == {}
    with socket.socket() as probe:
        assert probe.connect_ex(("localhost", port)) != 0, "the port is still listened to"


def processes_of(home: Path) -> dict[int, str]:
    """The processes that work on a home directory, the demo and what it has started: id to command line.

    Whatever the demo starts, and what that starts, has the directory in its environment.
    """
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            continue
        if os.fsencode(home) in command + environment:
            found[int(process.name)] = os.fsdecode(command.replace(b"\0", b" "))
    return found


def wait_for(url: str) -> None:
    """Returns once the webserver answers, which may be after the first sensor's tick."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/server_info", timeout=30).close()
        except OSError:
            assert time.monotonic() < end, f"nothing answers at {url}"
            time.sleep(0.3)
        else:
            return


def write_history(settings: Settings) -> None:
    """Rows of a company that nobody has registered."""
    [spec] = load_feeds().values()
    simulator = Simulator(spec, settings.table_location(spec.source_table), [NEW], rate=ROWS / 3, seed=1)
    begun = datetime.now(UTC) - timedelta(minutes=1)
    for second in range(3):
        simulator.step(begun + timedelta(seconds=second))
