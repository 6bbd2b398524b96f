"""Runs the demo: traffic into the table, Dagster's sensors at work, an audit at the end."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deltalake import DeltaTable

from lpm_stream.control import ledger, registry
from lpm_stream.control.latency import Latencies
from lpm_stream.demo.dagster import Dagster, running_dagster
from lpm_stream.demo.places import require_own_places
from lpm_stream.demo.result import Result, result_of
from lpm_stream.errors import LpmStreamError
from lpm_stream.source.simulate import Simulator
from lpm_stream.status import Status, read_status
from lpm_stream.stream import Stream

_START_SECONDS = 90.0
_CATCH_UP_SECONDS = 120.0


@dataclass(frozen=True)
class Demo:
    """What is asked of a demo.

    Attributes:
        companies: ids, the busiest first.
        rate: changed rows a second.
        port: of Dagster's webserver.
        seconds: how long there is traffic; None: until `stop` is set.
        stop: ends the demo.
        show: called about once a second with what is going on, the status and the webserver's address.
    """

    companies: Sequence[str]
    rate: float
    port: int
    seconds: float | None
    stop: threading.Event
    show: Callable[[str, Status, str], None]


def run_demo(stream: Stream, demo: Demo) -> Result | None:
    """Runs a demo to its end; None if it was stopped before, without an audit.

    Raises:
        LpmStreamError: if a part of it does not start or dies, or its hub or a database is another demo's.
    """
    for company in demo.companies:
        registry.register(stream.store, company)
    require_own_places(stream)
    simulator = Simulator(stream.spec, stream.table, demo.companies, demo.rate)
    with running_dagster(stream.settings, demo.port) as dagster:
        streamed = _stream(stream, demo, dagster, simulator)
        demo.show("stopping", read_status(stream), dagster.url)
    return None if streamed is None else _audited(stream, simulator, streamed)


@dataclass(frozen=True)
class _Streamed:
    """What was there when traffic began, how long there was traffic, and in how many ticks it was streamed."""

    before: Mapping[str, Latencies]
    seconds: float
    ticks: int


def _stream(stream: Stream, demo: Demo, dagster: Dagster, simulator: Simulator) -> _Streamed | None:
    """Traffic for the demo's time, until all of it is delivered; None if the demo was stopped before."""
    _wait(stream, demo, dagster, _Stage("Dagster is starting", _START_SECONDS, _sensors_at_work))
    _wait(stream, demo, dagster, _Stage("catching up", _CATCH_UP_SECONDS, _caught_up(stream.table)))
    before = ledger.read(stream.store, stream.spec.name)
    begun = time.monotonic()
    if not demo.stop.is_set():
        _traffic(stream, demo, dagster, simulator)
    seconds = time.monotonic() - begun
    if demo.seconds is None or demo.stop.is_set():
        return None
    _wait(stream, demo, dagster, _Stage("catching up", _CATCH_UP_SECONDS, _caught_up(stream.table)))
    return _Streamed(before, seconds, dagster.ticks())


def _traffic(stream: Stream, demo: Demo, dagster: Dagster, simulator: Simulator) -> None:
    """Keeps the simulator committing, and the screen up to date, for the demo's time."""
    over = threading.Event()
    failures: list[BaseException] = []

    def simulate() -> None:
        try:
            simulator.run(over, math.inf if demo.seconds is None else demo.seconds)
        except BaseException as error:  # noqa: BLE001 - raised again by the demo's thread
            failures.append(error)

    thread = threading.Thread(target=simulate, name="simulate")
    thread.start()
    try:
        while thread.is_alive() and not demo.stop.is_set():
            dagster.require_alive()
            demo.show("streaming", read_status(stream), dagster.url)
            thread.join(1)
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


@dataclass(frozen=True)
class _Stage:
    """Something to wait for: what it is called, for how long at most, and when it is over."""

    name: str
    seconds: float
    is_done: Callable[[Status], bool]


def _wait(stream: Stream, demo: Demo, dagster: Dagster, stage: _Stage) -> None:
    deadline = time.monotonic() + stage.seconds
    while not demo.stop.is_set():
        dagster.require_alive()
        status = read_status(stream)
        if stage.is_done(status):
            return
        if time.monotonic() > deadline:
            raise LpmStreamError(
                f"{stage.name}: not done within {stage.seconds:.0f} s; "
                f"see lpm-stream status and the logs in {dagster.logs}"
            )
        demo.show(stage.name, status, dagster.url)
        demo.stop.wait(0.3)


def _sensors_at_work(status: Status) -> bool:
    return status.publisher is not None and status.deliverer is not None


def _caught_up(table: str) -> Callable[[Status], bool]:
    newest = DeltaTable(table).version()

    def is_done(status: Status) -> bool:
        parked = any(company.parked for company in status.companies)
        return status.published_version >= newest and status.hub_messages == 0 and not parked

    return is_done


def _audited(stream: Stream, simulator: Simulator, streamed: _Streamed) -> Result:
    from lpm_stream.audit.run import audit  # noqa: PLC0415 - DuckDB only for this

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
    )
