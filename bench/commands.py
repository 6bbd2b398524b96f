"""The program's own commands as processes to be measured."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def start(*arguments: str, home: Path) -> subprocess.Popen[str]:
    """Starts a command."""
    line = [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(home)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=os.environ)


def run(*arguments: str, home: Path) -> None:
    """Runs a command to its end.

    Raises:
        RuntimeError: if it fails.
    """
    process = start(*arguments, home=home)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"lpm-stream {' '.join(arguments)} failed: {errors}")


@contextmanager
def relaying(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A relay at work."""
    relay = start("relay", home=home)
    assert relay.stderr is not None
    relay.stderr.readline()  # it says so when it begins
    try:
        yield relay
    finally:
        relay.send_signal(signal.SIGTERM)
        relay.communicate()


def peak_memory_bytes(process: subprocess.Popen[str]) -> int:
    """The most memory that a running process and its children have held, added up (Linux)."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    children = {child for thread in threads for child in (thread / "children").read_text(encoding="ascii").split()}
    return sum(_peak(pid) for pid in {str(process.pid), *children})


def _peak(pid: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
