"""A stream as it is run: real processes over real files in one directory, with traffic."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from deltalake import DeltaTable

from lpm_stream.cli.simulate import simulated_companies
from lpm_stream.control import ledger, parking, progress, registry
from lpm_stream.control.latency import Latencies
from lpm_stream.feed.load import load_feeds
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream
from torture.seen import Seen

_PATIENCE_SECONDS = 100.0  # the longest pause between two tries of a parked company is 60 s
_SAVED_SECONDS = 1.5  # the deliverer saves what it knows once a second
_BELOW_HOME: Mapping[str, str] = MappingProxyType({})


class World:
    """One directory with a simulator, a relay, and whatever else a fault needs.

    Attributes:
        home: the directory.
        companies: the ids of its companies, the busiest first.
        chance: where random moments come from.
        traffic: the simulator.
        relay: the relay, if one was started last.
        since: the latencies known when the fault began: what is measured is what came after.
    """

    def __init__(
        self,
        home: Path,
        companies: int,
        rate: float,
        chance: random.Random,
        places: Mapping[str, str] = _BELOW_HOME,
    ) -> None:
        """Makes the directory.

        Args:
            home: the directory.
            companies: number of companies.
            rate: changed rows a second.
            chance: where random moments come from.
            places: settings of what is not below the directory.
        """
        self.home = home
        self.companies = simulated_companies(companies)
        self.chance = chance
        self.traffic: subprocess.Popen[str] | None = None
        self.relay: subprocess.Popen[str] | None = None
        self.since: dict[str, Latencies] = {}
        self._rate = rate
        self._places = places
        self._started: list[subprocess.Popen[str]] = []
        home.mkdir(parents=True)

    # Processes

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts a command in a process group of its own; what it has to say goes to the log."""
        with self.log_path.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(self.home)],
                stdout=log,
                stderr=log,
                text=True,
                env=self._environment | (environment or {}),
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "lpm_stream", *arguments, "--dir", str(self.home)],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=self._environment,
        )

    @property
    def _environment(self) -> dict[str, str]:
        places = {f"LPM_STREAM_{name.upper()}": place for name, place in self._places.items()}
        return os.environ | {"COLUMNS": "500"} | places

    def start_traffic(self) -> None:
        """Has the table changed all the time."""
        count = str(len(self.companies))
        self.traffic = self.start("simulate", "--rate", str(self._rate), "--companies", count)
        wait_until(lambda: any(self.home.glob("tables/*/_delta_log/*.json")), "there is no table")

    def start_relay(self, environment: dict[str, str] | None = None) -> None:
        """Starts a relay and waits until it has delivered something."""
        before = self._applied_at()
        self.relay = self.start("relay", environment=environment)
        wait_until(lambda: self._applied_at() > before, "the relay delivers nothing")

    def wait_for_delivery(self) -> None:
        """Waits until some company's database has taken something more."""
        before = self._applied_at()
        wait_until(lambda: self._applied_at() > before, "nothing is delivered")

    def stop_relay(self) -> None:
        """Ends the relay in order."""
        if self.relay is not None:
            self.relay.send_signal(signal.SIGTERM)
            self.relay.wait(30)
            self.relay = None

    def ensure_running(self) -> None:
        """Starts what does not run."""
        if self.traffic is None or self.traffic.poll() is not None:
            self.start_traffic()
        if self.relay is None or self.relay.poll() is not None:
            self.start_relay()

    def close(self) -> None:
        """Kills what is left."""
        for process in self._started:
            kill(process)
        if "_opened" in self.__dict__:
            self._opened[1].__exit__(None, None, None)

    # What is to be seen

    @property
    def log_path(self) -> Path:
        """Where the processes write what they have to say."""
        return self.home / "log.txt"

    @property
    def log(self) -> str:
        """What they have said."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @cached_property
    def _opened(self) -> tuple[Stream, Any]:
        context = open_stream(Settings.load(self.home, **self._places), load_feeds()["tdr"])
        return context.__enter__(), context

    @property
    def stream(self) -> Stream:
        """The same stream, to look into."""
        return self._opened[0]

    def forget(self) -> None:
        """Closes what was opened to look into: files are about to be replaced."""
        if "_opened" in self.__dict__:
            self.__dict__.pop("_opened")[1].__exit__(None, None, None)

    def status(self) -> Seen:
        """What `status --json` shows, whatever happens."""
        done = self.run("status", "--json", "-")
        if done.returncode:
            raise RuntimeError(f"status failed: {done.stderr}")
        return Seen(json.loads(done.stdout))

    @contextmanager
    def halted_when(self, condition: Callable[[], bool], otherwise: str) -> Iterator[None]:
        """Halts the relay as soon as something comes true that passes: so that there is time to look at it.

        Raises:
            TimeoutError: if it takes too long, with what to say otherwise.
        """
        assert self.relay is not None
        group = self.relay.pid
        while True:
            wait_until(condition, otherwise)
            os.killpg(group, signal.SIGSTOP)
            try:
                if condition():  # else it has just passed, and may come again
                    yield
                    return
            finally:
                os.killpg(group, signal.SIGCONT)

    def parked(self) -> dict[str, parking.Parked]:
        """Who is parked."""
        return parking.read_parked(self.stream.store, self.stream.spec.name)

    def wait_for_log(self, text: str, already: int = 0) -> None:
        """Waits until the log says something more often than it has said it already."""
        wait_until(lambda: self.log.count(text) > already, f"the log does not say {text!r}")

    def _applied_at(self) -> datetime:
        """When a company's database was last known to take something."""
        times = [one.applied_at for one in progress.read_deliveries(self.stream.store, "tdr").values()]
        return max(times, default=datetime.min.replace(tzinfo=UTC))

    def latencies(self) -> dict[str, Latencies]:
        """Company to the latencies of all that it received, once everything is saved."""
        time.sleep(_SAVED_SECONDS)
        return self.known_latencies()

    def known_latencies(self) -> dict[str, Latencies]:
        """Likewise, without those that were not saved yet."""
        return ledger.read(self.stream.store, self.stream.spec.name)

    def database(self, company: str) -> Path:
        """A company's database file."""
        url = registry.database_urls(self.stream.store, self.stream.settings)[company]
        return Path(str(sa.make_url(url).database))

    def verified(self) -> dict[str, Any]:
        """What `verify --json` finds once the traffic has ended and everything seems to have arrived."""
        assert self.traffic is not None
        self.traffic.send_signal(signal.SIGTERM)
        self.traffic.wait(30)
        wait_until(lambda: not self.parked(), "companies stay parked", lambda: str(self.parked()))
        wait_until(self._has_arrived, "messages stay in the hub")
        done = self.run("verify", "--json", "-")
        if done.returncode not in {0, 1}:
            raise RuntimeError(f"verify failed: {done.stderr}")
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def _has_arrived(self) -> bool:
        cursor = progress.read_cursor(self.stream.store, self.stream.spec.name)
        through = progress.read_checkpoints(self.stream.store, self.stream.spec.name)
        hub = self.stream.hub
        return (
            cursor is not None
            and cursor.version == DeltaTable(self.stream.table).version()
            and all(through.get(partition, 0) == hub.end(partition) for partition in hub.partitions())
        )


def kill(process: subprocess.Popen[str]) -> None:
    """`kill -9` for a process and all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def wait_until(
    condition: Callable[[], bool],
    otherwise: str,
    more: Callable[[], str] = str,
    seconds: float = _PATIENCE_SECONDS,
) -> None:
    """Waits for something to come true.

    Raises:
        TimeoutError: if it takes too long.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} after {seconds:g} s {more()}")
        time.sleep(0.02)


@contextmanager
def locked(*paths: Path) -> Iterator[None]:
    """SQLite files whose write lock another process holds."""
    holder = subprocess.Popen(
        [sys.executable, "-m", "torture.lock", *map(str, paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "locked\n":
            raise RuntimeError("the databases could not be locked")
        yield
    finally:
        holder.communicate("")
