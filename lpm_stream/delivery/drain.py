"""The deliver drain: hub to company databases, many companies at a time, none waiting for another."""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import polars as pl

from lpm_stream.control import leases, parking, progress
from lpm_stream.control.latency import Latencies
from lpm_stream.control.parking import Parked
from lpm_stream.control.store import ControlStore
from lpm_stream.delivery.apply import WatermarkWentBackError
from lpm_stream.delivery.lanes import Lane, Outcome
from lpm_stream.delivery.unsaved import Unsaved
from lpm_stream.delivery.worker import Worker
from lpm_stream.errors import HubError, LeaseLostError, LpmStreamError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.message import Hub, Received
from lpm_stream.settings import Settings

log = logging.getLogger(__name__)

_READ_MESSAGES = 500
_WAITING_BYTES = 32_000_000  # of all companies together; beyond it reading pauses
_JOINING_BYTES = 4_000_000  # of a company that is catching up; beyond it they are left to its own reader
_SLOW_SECONDS = 5.0  # a task that takes longer parks its company, so that its messages stop filling memory
_STUCK_SLOTS = 64  # so many databases may not answer before the others have fewer slots
_SAVE_SECONDS = 1.0  # what is not saved is re-read after a crash and dropped by the watermark
_RECOVERY_SLOTS = 2  # parked companies are retried in slots of their own
_FINISH_SECONDS = 4.0  # how long the end of a drain waits for transactions in hand


@dataclass
class Delivery:
    """What a deliver drain did.

    Attributes:
        companies: company to the latencies of the changes it received.
        versions: company to its watermark's version.
        refused: number of rows that went to quarantine.
        problems: what kept partitions from being read, one line each.
        standby: whether another worker holds the lease, so that nothing was done.
    """

    companies: dict[str, Latencies] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    standby: bool = False

    @property
    def changes(self) -> int:
        """Number of changes applied."""
        return sum(latencies.changes for latencies in self.companies.values())


class Deliverer:
    """Delivers one feed's messages under its lease."""

    def __init__(self, spec: FeedSpec, hub: Hub, store: ControlStore, settings: Settings) -> None:
        self._spec = spec
        self._hub = hub
        self._store = store
        self._settings = settings
        self._holder = leases.worker_name("deliver")

    def drain(self, *, go_on: Callable[[], bool], until_caught_up: bool = False) -> Delivery:
        """Delivers messages as they arrive.

        Args:
            go_on: asked again and again; False ends the drain once the transactions in hand are finished.
            until_caught_up: end when every message that the hub holds is delivered or its company is parked.

        Raises:
            LeaseLostError: if another worker has taken over.
        """
        lease = leases.acquire(self._store, leases.lease_name("deliver", self._spec.name), self._holder)
        if lease is None:
            return Delivery(standby=True)
        try:
            drain = _Drain(self._spec, self._hub, self._store, self._settings, lease)
            return drain.run(go_on, until_caught_up)
        finally:
            leases.release(self._store, lease)


class _Drain:
    """The state of one drain. One thread touches it; the slots' threads only run the worker."""

    def __init__(
        self, spec: FeedSpec, hub: Hub, store: ControlStore, settings: Settings, lease: leases.Lease
    ) -> None:
        self._spec = spec
        self._hub = hub
        self._store = store
        self._settings = settings
        self._lease = lease
        self._done = Delivery()
        self._worker = Worker(spec, hub, store, settings, lease.fence)
        self._slots = ThreadPoolExecutor(settings.slots + _STUCK_SLOTS, "deliver")
        self._recovery = ThreadPoolExecutor(_RECOVERY_SLOTS, "recover")
        self._saved = progress.read_checkpoints(store, spec.name)
        self._read_through = {partition: self._saved.get(partition, 0) for partition in hub.partitions()}
        self._partitions = deque(hub.partitions())
        self._lanes: dict[str, Lane] = {}
        self._stuck: dict[str, Future[Outcome]] = {}
        self._parked = parking.read_parked(store, spec.name)
        self._applied_before = {
            company: newest.sequence_number
            for company, newest in progress.read_deliveries(store, spec.name).items()
        }
        self._unsaved = Unsaved()
        self._saved_at = time.monotonic()

    def run(self, go_on: Callable[[], bool], until_caught_up: bool) -> Delivery:
        try:
            while go_on():
                self._collect()
                read = self._read()
                self._start()
                self._save_if_due()
                if until_caught_up and not read and not self._lanes:
                    break
                if not read:
                    self._pause()
            wait(self._tasks(), _FINISH_SECONDS)
            self._collect()
            self._save()
        finally:
            self._slots.shutdown(wait=False, cancel_futures=True)
            self._recovery.shutdown(wait=False, cancel_futures=True)
            self._worker.close()
        return self._done

    def _tasks(self) -> list[Future[Outcome]]:
        return [lane.task for lane in self._lanes.values() if lane.task is not None]

    def _pause(self) -> None:
        tasks = self._tasks()
        if tasks:
            wait(tasks, self._settings.poll_seconds, FIRST_COMPLETED)
        else:
            time.sleep(self._settings.poll_seconds)

    # Reading

    def _read(self) -> bool:
        """Takes new messages from every partition, in turn; whether there were any."""
        found = False
        for partition in list(self._partitions):
            if sum(lane.waiting_bytes for lane in self._lanes.values()) > _WAITING_BYTES:
                break
            self._partitions.rotate(-1)
            try:
                received = self._hub.receive(partition, self._read_through[partition], _READ_MESSAGES)
            except HubError as error:
                self._note_problem(str(error))
                continue
            for one in received:
                self._read_through[partition] = one.sequence_number
                if one.message.feed == self._spec.name:
                    self._queue(one)
            found = found or bool(received)
        return found

    def _queue(self, one: Received) -> None:
        company = one.message.company
        if company not in self._lanes:
            if company in self._parked:
                return  # its own reader comes to it
            if not self._worker.is_registered(company):
                return  # registered when this was published, removed since
            self._lanes[company] = Lane(company, one.partition)
        lane = self._lanes[company]
        if lane.recovering and lane.waiting_bytes > _JOINING_BYTES:
            lane.leave_to_own_reader(one.sequence_number)
        else:
            lane.put(one)

    def _note_problem(self, problem: str) -> None:
        if problem not in self._done.problems:
            log.error("%s", problem)
            self._done.problems.append(problem)

    # Tasks

    def _start(self) -> None:
        busy = sum(lane.task is not None and not lane.recovering for lane in self._lanes.values())
        free = self._settings.slots - busy - max(len(self._stuck) - _STUCK_SLOTS, 0)
        now = datetime.now(UTC)
        ready = [lane for lane in self._lanes.values() if lane.is_ready(now)]
        for lane in ready[: max(free, 0)]:
            company = lane.company
            task = self._slots.submit(self._worker.serve, company, lane.take(), self._applied(company))
            lane.start(task)
        for company, state in self._parked.items():
            waits = state.next_try_at > now or company in self._lanes or company in self._stuck
            if not waits and self._worker.is_registered(company):
                lane = Lane(company, state.partition, recovering=True)
                lane.joins_at = self._read_through[state.partition]
                lane.start(self._recovery.submit(self._worker.recover, state, self._applied(company)))
                self._lanes[company] = lane

    def _applied(self, company: str) -> int:
        return self._applied_before.get(company, 0)

    def _collect(self) -> None:
        """Takes the results of tasks that are over, and parks companies whose task takes too long."""
        for lane in list(self._lanes.values()):
            if lane.task is None:
                continue
            if lane.task.done():
                self._collect_one(lane, lane.task)
            elif not lane.recovering and time.monotonic() - lane.started > _SLOW_SECONDS:
                self._stuck[lane.company] = lane.task
                self._park(lane, f"the database has not answered for {_SLOW_SECONDS:g} s")
        for company, task in list(self._stuck.items()):
            if task.done():
                del self._stuck[company]
                if task.exception() is None:
                    self._note(company, task.result())

    def _collect_one(self, lane: Lane, task: Future[Outcome]) -> None:
        try:
            outcome = task.result()
        except LeaseLostError as error:
            leases.renew(self._store, self._lease)  # raises if it is lost; else only this database says so
            self._park(lane, str(error))
        except WatermarkWentBackError as error:
            found = error.watermark
            self._applied_before[lane.company] = found.sequence_number
            self._unsaved.find(lane.company, found)
            self._park(lane, str(error), found.sequence_number + 1)
        except LpmStreamError as error:
            self._park(lane, str(error))
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - others' delivery goes on
            frames = "".join(traceback.format_tb(error.__traceback__))  # without the message: it may quote rows
            log.error("company %r: unexpected %s\n%s", lane.company, type(error).__name__, frames)  # noqa: TRY400
            self._park(lane, f"unexpected {type(error).__name__}, a defect; the log says where")
        else:
            self._note(lane.company, outcome)
            lane.finish()
            if lane.recovering:
                self._catch_up(lane, outcome.through)
            if lane.company in self._lanes:
                del self._lanes[lane.company]
                if lane.waiting:
                    self._lanes[lane.company] = lane  # behind the others: each in its turn

    def _catch_up(self, lane: Lane, through: int) -> None:
        """Goes on behind a parked company's own reader: back into the common stream if it has caught up."""
        state = self._parked[lane.company]
        if through >= lane.joins_at:
            lane.recovering = False
            self._set_parked(lane.company, None)
            log.info("company %r has caught up and is delivered again", lane.company)
        else:
            del self._lanes[lane.company]
            self._set_parked(lane.company, replace(state, sequence_number=through + 1))

    def _park(self, lane: Lane, reason: str, sequence_number: int | None = None) -> None:
        """Sets a company aside; what waits for it is left to its own reader."""
        company = lane.company
        del self._lanes[company]
        first = lane.first_undelivered()
        if lane.recovering:
            state = self._parked[company].failed_again(reason)
        else:
            assert first is not None  # noqa: S101 - a task always has messages in hand
            state = parking.park(
                company, lane.partition, first.sequence_number, first.message.committed_at, reason
            )
            log.warning("company %r is parked: %s", company, reason)
        if sequence_number is not None:
            state = replace(state, sequence_number=sequence_number)
        self._set_parked(company, state)

    def _set_parked(self, company: str, state: Parked | None) -> None:
        self._unsaved.parked[company] = state
        if state is None:
            del self._parked[company]
        else:
            self._parked[company] = state

    def _note(self, company: str, outcome: Outcome) -> None:
        applied = outcome.applied
        if applied is None:
            return
        latencies = self._unsaved.add(company, applied)
        if not applied.messages and applied.watermark.sequence_number > self._applied(company):
            self._unsaved.find(company, applied.watermark)
        self._applied_before[company] = applied.watermark.sequence_number
        self._done.companies.setdefault(company, Latencies()).merge(latencies)
        self._done.versions[company] = applied.watermark.version
        self._done.refused += applied.refused

    # Saving

    def _save_if_due(self) -> None:
        age = time.monotonic() - self._saved_at
        news = bool(self._unsaved) or self._checkpoints() != self._saved
        pause = _SAVE_SECONDS if self._lanes else _SAVE_SECONDS / 10
        if age > pause and (news or age > leases.TTL.total_seconds() / 3):
            self._save()

    def _save(self) -> None:
        """Writes results, parked companies and checkpoints in one transaction, under the lease."""
        feed = self._spec.name
        reached = self._checkpoints()
        with self._store.write() as connection:
            leases.check(connection, self._lease)
            self._unsaved.save(connection, feed)
            for partition, sequence_number in reached.items():
                if self._saved.get(partition) != sequence_number:
                    progress.write_checkpoint(connection, feed, partition, sequence_number)
        self._saved = reached
        self._unsaved = Unsaved()
        self._saved_at = time.monotonic()

    def _checkpoints(self) -> dict[int, int]:
        """Where each partition has to be read from after a restart; parked companies remember their own place."""
        reached = dict(self._read_through)
        for lane in self._lanes.values():
            first = lane.first_undelivered()
            if first is not None and not lane.recovering:
                reached[lane.partition] = min(reached[lane.partition], first.sequence_number - 1)
        return reached
