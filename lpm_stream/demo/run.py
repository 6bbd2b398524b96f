"""Runs the demo: traffic into the table, legacy files beside it, Dagster's sensors, an audit at the end."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from deltalake import DeltaTable

from lpm_stream.audit.run import audit
from lpm_stream.components.checks import check_job_name
from lpm_stream.control import ledger, registry
from lpm_stream.control.latency import Latencies
from lpm_stream.demo.beside import Beside, beside
from lpm_stream.demo.dagster import Dagster, running_dagster
from lpm_stream.demo.legacy import LegacySystem, keep_writing, legacy_system
from lpm_stream.demo.places import require_own_places
from lpm_stream.demo.receiver import receiver
from lpm_stream.demo.result import Result, result_of
from lpm_stream.demo.watch import Injected, Seen, Watch
from lpm_stream.errors import LpmStreamError
from lpm_stream.legacy.simulate import Fault
from lpm_stream.source.simulate import Simulator
from lpm_stream.status import Status, read_status
from lpm_stream.stream import Stream

_START_SECONDS = 90.0
_CATCH_UP_SECONDS = 120.0
_CHECK_SECONDS = 120.0  # a run of all checks; what is not checked by then counts as failed
_FAULT_SECONDS = 360.0  # two files of a company, with the run and the alert that follow


@dataclass(frozen=True)
class Demo:
    """What is asked of a demo.

    Attributes:
        companies: ids, the busiest first.
        rate: changed rows a second.
        port: of Dagster's webserver.
        seconds: how long there is traffic; None: until `stop` is set.
        fault: what is to be wrong with one legacy file of the busiest company.
        stop: ends the demo.
        show: called about once a second with what is going on, the status, checks and alerts, and the webserver's
            address.
    """

    companies: Sequence[str]
    rate: float
    port: int
    seconds: float | None
    fault: Fault | None
    stop: threading.Event
    show: Callable[[str, Status, Seen, str], None]


def run_demo(stream: Stream, demo: Demo) -> Result | None:
    """Runs a demo to its end; None if it was stopped before, without an audit.

    Raises:
        LpmStreamError: if a part of it does not start or dies, or its hub or a database is another demo's.
    """
    for company in demo.companies:
        registry.register(stream.store, company)
    require_own_places(stream)
    simulator = Simulator(stream.spec, stream.table, demo.companies, demo.rate)
    with ExitStack() as stack:
        legacy = stack.enter_context(legacy_system(stream, demo.companies, demo.fault))
        if legacy is not None:
            legacy.begin(datetime.now(UTC))
        told = stack.enter_context(receiver())
        variables = told.environment(stream.settings)
        dagster = stack.enter_context(running_dagster(stream.settings, demo.port, variables))
        workers = []
        if legacy is not None:
            workers.append(stack.enter_context(beside(partial(keep_writing, legacy), "legacy files")))
        watch = Watch(stream, dagster, demo.companies, legacy)
        running = _Running(stream, demo, dagster, watch, legacy, workers)
        streamed = running.to_the_end(simulator)
        running.show("stopping")
        dagster.end_runs()
    return None if streamed is None else _audited(stream, simulator, streamed)


@dataclass(frozen=True)
class _Streamed:
    """What was there when traffic began, how long it lasted, in how many ticks, and what was seen of it."""

    before: Mapping[str, Latencies]
    seconds: float
    ticks: int
    seen: Seen
    faults: tuple[Injected, ...]
    as_expected: bool


@dataclass(frozen=True)
class _Stage:
    """Something to wait for: what it is called, for how long at most, and when it is over."""

    name: str
    seconds: float
    is_done: Callable[[Status], bool]


@dataclass(frozen=True)
class _Running:
    """A demo whose parts run."""

    stream: Stream
    demo: Demo
    dagster: Dagster
    watch: Watch
    legacy: LegacySystem | None
    workers: Sequence[Beside]

    def show(self, stage: str, status: Status | None = None) -> None:
        """Brings the screen up to date."""
        status = status or read_status(self.stream)
        self.demo.show(stage, status, self.watch.seen(), self.dagster.url)

    def to_the_end(self, simulator: Simulator) -> _Streamed | None:
        """Traffic for the demo's time, until all of it is delivered and judged; None if stopped before."""
        demo, table = self.demo, self.stream.table
        self._wait(_Stage("Dagster is starting", _START_SECONDS, _sensors_at_work))
        self._wait(_Stage("catching up", _CATCH_UP_SECONDS, _caught_up(table)))
        before = ledger.read(self.stream.store, self.stream.spec.name)
        begun = time.monotonic()
        if not demo.stop.is_set():
            self._traffic(simulator)
        seconds = time.monotonic() - begun
        if demo.seconds is None or demo.stop.is_set():
            return None
        self._wait(_Stage("catching up", _CATCH_UP_SECONDS, _caught_up(table)))
        self._judge()
        seen = self.watch.look()
        faults = self.watch.faults(seen)
        as_expected = all(one.found for one in faults) if demo.fault else seen.well
        as_expected = as_expected and bool(faults) == (demo.fault is not None) and not self.watch.lacks(seen)
        return _Streamed(before, seconds, self.dagster.ticks(), seen, faults, as_expected)

    def _traffic(self, simulator: Simulator) -> None:
        """Keeps the simulator committing, and the screen up to date, for the demo's time."""
        seconds = math.inf if self.demo.seconds is None else self.demo.seconds
        if self.legacy is not None:
            self.legacy.traffic_begins(datetime.now(UTC))
        with beside(lambda over: simulator.run(over, seconds), "simulate") as simulating:
            while simulating.is_at_work and not self.demo.stop.is_set():
                self._require_well()
                self.show("streaming")
                simulating.wait(1)

    def _judge(self) -> None:
        """Waits until checks and alerts show what they are to show, or for long enough."""
        if self.demo.fault is not None:
            self._wait(_Stage("checking", _FAULT_SECONDS, self._shows_fault()), or_else=False)
            return
        written = self.watch.written()  # further ones come each minute, for as long as anybody waits
        checking = self.dagster.run_checks(check_job_name(self.stream.spec))

        def is_done(_status: Status) -> bool:
            return self.dagster.has_ended(checking) and self.watch.are_compared(written)

        self._wait(_Stage("checking", _CHECK_SECONDS, is_done), or_else=False)

    def _shows_fault(self) -> Callable[[Status], bool]:
        files_of = self.legacy.companies if self.legacy is not None else ()
        if len(files_of) < len(self.demo.companies):  # no file comes that has the others checked
            self.dagster.run_checks(check_job_name(self.stream.spec))

        def is_done(_status: Status) -> bool:
            seen = self.watch.seen()
            return any(one.found for one in self.watch.faults(seen)) and not self.watch.lacks(seen)

        return is_done

    def _require_well(self) -> None:
        self.dagster.require_alive()
        for worker in self.workers:
            worker.require_well()

    def _wait(self, stage: _Stage, *, or_else: bool = True) -> None:
        """Waits for a stage; with `or_else` it is an error if it takes too long."""
        deadline = time.monotonic() + stage.seconds
        while not self.demo.stop.is_set():
            self._require_well()
            status = read_status(self.stream)
            if stage.is_done(status):
                return
            if time.monotonic() > deadline:
                if not or_else:
                    return
                raise LpmStreamError(
                    f"{stage.name}: not done within {stage.seconds:.0f} s; "
                    f"see lpm-stream status and the logs in {self.dagster.logs}"
                )
            self.show(stage.name, status)
            self.demo.stop.wait(0.3)


def _sensors_at_work(status: Status) -> bool:
    return status.publisher is not None and status.deliverer is not None


def _caught_up(table: str) -> Callable[[Status], bool]:
    newest = DeltaTable(table).version()

    def is_done(status: Status) -> bool:
        parked = any(company.parked for company in status.companies)
        return status.published_version >= newest and status.hub_messages == 0 and not parked

    return is_done


def _audited(stream: Stream, simulator: Simulator, streamed: _Streamed) -> Result:
    received = {
        company: latencies.since(streamed.before.get(company, Latencies()))
        for company, latencies in ledger.read(stream.store, stream.spec.name).items()
    }
    databases = registry.database_urls(stream.store, stream.settings, stream.spec.name)
    return result_of(
        committed=simulator.committed.changes,
        received=received,
        audit=audit(stream.spec, stream.table, databases, scratch=stream.settings.home / "scratch"),
        ticks=streamed.ticks,
        seconds=streamed.seconds,
        seen=streamed.seen,
        faults=streamed.faults,
        as_expected=streamed.as_expected,
    )
