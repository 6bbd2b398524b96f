"""The deliver drain: hub to company databases, many companies at a time, none waiting for another."""

import logging
import shlex
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

import polars as pl
import sqlalchemy as sa

from lpm_stream.clock import WallClock
from lpm_stream.control import leases, parking, progress, quarantine, shares
from lpm_stream.control.latency import Latencies
from lpm_stream.control.parking import Parked
from lpm_stream.control.store import ControlStore
from lpm_stream.delivery.apply import WaitsError
from lpm_stream.delivery.lanes import Lane, Outcome, next_in_line
from lpm_stream.delivery.loss import LossCheck
from lpm_stream.delivery.slots import Slots
from lpm_stream.delivery.unsaved import Unsaved
from lpm_stream.delivery.watermark import ChangesMissingError, Watermark
from lpm_stream.delivery.worker import Worker
from lpm_stream.errors import HubError, HubGapError, LeaseLostError, LpmStreamError, told
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.message import Hub, Received
from lpm_stream.settings import Settings

log = logging.getLogger(__name__)

_READ_MESSAGES = 500
_WAITING_BYTES = 32_000_000  # of all companies together; beyond it reading pauses
_JOINING_BYTES = 4_000_000  # of a company that is catching up; beyond it they are left to its own reader
_SLOW_SECONDS = 5.0  # a task that takes longer parks its company, so that its messages stop filling memory
_SLOW_RECOVERY_SECONDS = 15.0  # likewise for a company's own reader, which takes more at once
_TAKES_LONG_SECONDS = 2.0  # likewise where messages of such companies fill half of the memory that others need
_STUCK_SLOTS = 1_000  # so many databases may keep their tasks waiting before the others have fewer slots
_SAVE_SECONDS = 1.0  # what is not saved is re-read after a crash and dropped by the watermark
_ROUND_SECONDS = 1.0  # of reading, before all else is looked at: a hub that does not answer takes its time
_FORGET_SECONDS = 1.0  # between looks for companies that are not served any more
_RECOVERY_SLOTS = 4  # parked companies are retried in slots of their own
_FINISH_SECONDS = 4.0  # how long the end of a drain waits for transactions in hand

# Tasks that nobody waits for any more, by company: a database that never answers keeps one thread and one
# connection of the process, not one of each drain.
_STUCK: defaultdict[tuple[str, str], dict[str, Future[Outcome]]] = defaultdict(dict)


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
    """Delivers one feed's messages: all of them, or its share where several do so."""

    def __init__(self, spec: FeedSpec, hub: Hub, store: ControlStore, settings: Settings) -> None:
        self._spec = spec
        self._hub = hub
        self._store = store
        self._settings = settings
        self._holder = leases.worker_name("deliver")

    def drain(self, *, go_on: Callable[[], bool], until_caught_up: bool = False, shared: bool = False) -> Delivery:
        """Delivers messages as they arrive.

        Args:
            go_on: asked again and again; False ends the drain once the transactions in hand are finished.
            until_caught_up: end when every message that the hub holds is delivered or its company is parked.
            shared: split the hub's partitions with others that do so, as they come and go.

        Raises:
            LeaseLostError: if another worker has taken over.
        """
        done = Delivery()
        while (share := self._take(alone=not shared)).partitions:
            try:
                drain = _Drain(self._spec, self._hub, self._store, self._settings, share, done=done)
                over = drain.run(go_on, until_caught_up)
            except BaseException:
                shares.leave(self._store, share)
                raise
            if over:
                shares.leave(self._store, share)
                return done
        done.standby = True
        return done

    def _take(self, *, alone: bool) -> shares.Share:
        every = self._hub.partitions()
        feed = self._spec.name
        assigned = frozenset[int]() if alone else self._hub.assigned(feed)
        share = shares.take(self._store, feed, self._holder, every, alone=alone, assigned=assigned)
        if 0 < len(share.partitions) < len(every):
            log.info("deliver: its share are partitions %s of %d", list(share.partitions), len(every))
        return share


class _Drain:
    """The state of one drain. One thread touches it; the slots' threads only run the worker."""

    def __init__(
        self,
        spec: FeedSpec,
        hub: Hub,
        store: ControlStore,
        settings: Settings,
        share: shares.Share,
        *,
        done: Delivery,
    ) -> None:
        self._spec = spec
        self._hub = hub
        self._store = store
        self._settings = settings
        self._share = share
        self._done = done
        self._worker = Worker(spec, hub, store, settings, share.fence)
        self._slots = Slots[Outcome](settings.slots + _STUCK_SLOTS, "deliver")
        self._recovery = Slots[Outcome](_RECOVERY_SLOTS + _STUCK_SLOTS, "recover")
        self._saved = progress.read_checkpoints(store, spec.name)
        self._read_through = {partition: self._saved.get(partition, 0) for partition in share.partitions}
        self._partitions = deque(share.partitions)
        self._quiet = 0  # partitions in turn that had nothing
        self._lanes: dict[str, Lane] = {}
        self._stuck = _STUCK[settings.control_url, spec.name]
        parked = parking.read_parked(store, spec.name)
        self._parked = {company: state for company, state in parked.items() if self._is_mine(state)}
        self._delivered = progress.read_deliveries(store, spec.name)
        self._loss_check = LossCheck(store, spec.name, hub)
        self._clock = WallClock()
        self._ahead: set[str] = set()
        self._tries = {company: state.next_try_at for company, state in self._parked.items()}
        self._unsaved = Unsaved()
        self._saved_at = self._forgot_at = time.monotonic()
        self._to_be_split = False

    def run(self, go_on: Callable[[], bool], until_caught_up: bool) -> bool:
        """Delivers; whether that is over, rather than that the partitions are to be split anew."""
        try:
            while go_on() and not self._to_be_split:
                self._collect()
                self._forget_if_due()
                read = self._read()
                self._park_the_lossy()
                self._start()
                self._save_if_due()
                if until_caught_up and not read and not self._lanes:
                    return self._ended()
                if not read:
                    self._pause()
            return self._ended()
        finally:
            self._slots.close()
            self._recovery.close()
            self._worker.close()

    def _ended(self) -> bool:
        """Finishes what is in hand; whether all is over."""
        over = not self._to_be_split
        wait(self._tasks(), _FINISH_SECONDS)
        self._collect()
        self._leave_behind()
        self._save()
        return over

    def _is_mine(self, state: Parked) -> bool:
        """Whether a parked company belongs to this share; it need not be known where its messages are."""
        known = state.partition in self._share.every
        partition = state.partition if known else self._hub.partition_of(state.company)
        return partition in self._share.partitions

    def _tasks(self) -> list[Future[Outcome]]:
        return [lane.task for lane in self._lanes.values() if lane.task is not None]

    def _pause(self) -> None:
        tasks = self._tasks()
        if tasks:
            wait(tasks, self._settings.poll_seconds, FIRST_COMPLETED)
        else:
            time.sleep(self._settings.poll_seconds)

    def _forget_if_due(self) -> None:
        """Forgets what companies have that are not served any more: one that comes back may have nothing of it."""
        if time.monotonic() - self._forgot_at < _FORGET_SECONDS:
            return
        self._forgot_at = time.monotonic()
        for company in self._delivered.keys() - self._worker.registered():
            del self._delivered[company]

    # Reading

    def _read(self) -> bool:
        """Takes new messages from the partitions, in turn; whether there may be more."""
        until = time.monotonic() + _ROUND_SECONDS
        for partition in list(self._partitions):
            if sum(lane.waiting_bytes for lane in self._lanes.values()) > _WAITING_BYTES:
                return self._park_the_slowest()
            self._partitions.rotate(-1)
            self._quiet = 0 if self._read_on(partition) else self._quiet + 1
            if time.monotonic() > until:
                break
        return self._quiet < len(self._partitions)

    def _read_on(self, partition: int) -> bool:
        """Takes the next messages of a partition; whether it got any further."""
        try:
            received = self._hub.receive(partition, self._read_through[partition], _READ_MESSAGES)
        except HubGapError as gap:  # companies that lack something show it by their next message, or a check
            self._note_problem(f"{gap}; going on behind message {gap.resume_after}")
            self._read_through[partition] = gap.resume_after
            return True
        except HubError as error:
            self._note_problem(str(error))
            return False
        for one in received:
            self._read_through[partition] = one.sequence_number
            if one.message.feed == self._spec.name:
                self._queue(one)
        return bool(received)

    def _queue(self, one: Received) -> None:
        company = one.message.company
        if company not in self._lanes:
            if company in self._parked:  # its own reader comes to it
                state = self._parked[company]
                if state.partition < 0:  # it was not known where its messages are
                    state = replace(state, partition=one.partition, sequence_number=one.sequence_number)
                self._set_parked(company, replace(state, waiting=state.waiting + one.message.rows))
                return
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
        at_work = [lane for lane in self._lanes.values() if lane.task is not None and not lane.recovering]
        held_up = sum(lane.is_held_up for lane in at_work)  # they lend their slots to others
        busy = len(at_work) - held_up
        slots = self._settings.slots - max(len(self._stuck) + held_up - _STUCK_SLOTS, 0)
        now = datetime.now(UTC)
        ready = [lane for lane in self._lanes.values() if lane.is_ready(now)]
        large = slots // 2 - sum(lane.is_large for lane in at_work)
        for lane in next_in_line(ready, slots - busy, large):
            company = lane.company
            serve = partial(self._worker.serve, company, lane.take(), self._applied(company))
            lane.start(self._slots.submit(serve))
        self._start_recovering(now)

    def _start_recovering(self, now: datetime) -> None:
        """Gives parked companies whose time has come, the longest waiting first, a slot for their own reader."""
        free = _RECOVERY_SLOTS - sum(lane.recovering for lane in self._lanes.values())
        free -= max(len(self._stuck) - _STUCK_SLOTS, 0)
        due = [
            state
            for state in self._parked.values()
            if state.is_due(now) and state.company not in self._lanes and state.company not in self._stuck
        ]
        for state in sorted(due, key=lambda state: state.next_try_at)[: max(free, 0)]:
            company = state.company
            if not self._worker.is_registered(company):
                self._set_parked(company, None)
                continue
            lane = Lane(company, state.partition, recovering=True)
            lane.joins_at = self._read_through.get(state.partition, 0)
            lane.start(self._recovery.submit(partial(self._worker.recover, state, self._applied(company))))
            self._lanes[company] = lane

    def _applied(self, company: str) -> int:
        known = self._delivered.get(company)
        return known.sequence_number if known else 0

    def _collect(self) -> None:
        """Takes the results of tasks that are over, and parks companies whose task takes too long."""
        for lane in list(self._lanes.values()):
            if lane.task is None:
                continue
            if lane.task.done():
                self._collect_one(lane, lane.task)
                continue
            patience = _SLOW_RECOVERY_SECONDS if lane.recovering else _SLOW_SECONDS
            if time.monotonic() - lane.started > patience:
                self._give_up(lane, lane.task, f"the database has not answered for {patience:g} s")
        for company, task in list(self._stuck.items()):
            if task.done():
                self._stuck.pop(company, None)
                if task.exception() is None and company in self._parked:
                    self._answered_late(self._parked[company], task.result())

    def _leave_behind(self) -> None:
        """Parks companies whose task is not over at the end of the drain: the next one does not begin another."""
        for lane in list(self._lanes.values()):
            if lane.task is not None:
                self._give_up(lane, lane.task, f"the database has not answered for {_FINISH_SECONDS:g} s")

    def _give_up(self, lane: Lane, task: Future[Outcome], reason: str) -> None:
        self._stuck[lane.company] = task
        self._park(lane, reason)

    def _answered_late(self, state: Parked, outcome: Outcome) -> None:
        """Takes the result of a task that nobody waited for any more: the database is slow, and well."""
        self._note(state.company, state.partition, outcome, waited=True)
        if outcome.applied and outcome.applied.messages:
            state = replace(state, attempts=0, next_try_at=datetime.now(UTC), reason="its database is slow")
            self._set_parked(state.company, state)

    def _collect_one(self, lane: Lane, task: Future[Outcome]) -> None:
        try:
            outcome = task.result()
        except LeaseLostError as error:
            shares.renew(self._store, self._share)  # raises if it is lost; else only this database says so
            self._park(lane, str(error))
        except ChangesMissingError as error:
            self._read_again(lane, error)
        except WaitsError as error:
            self._park(lane, str(error), "held")
        except LpmStreamError as error:
            self._park(lane, str(error))
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - others' delivery goes on
            frames = "".join(traceback.format_tb(error.__traceback__))  # without the message: it may quote rows
            log.error("company %r: %s\n%s", lane.company, told(error), frames)  # noqa: TRY400
            self._park(lane, f"{told(error)}, a defect; the log says where")
        else:
            self._note(lane.company, lane.partition, outcome, waited=lane.recovering)
            lane.finish()
            if lane.recovering:
                self._catch_up(lane, outcome)
            if lane.company in self._lanes:
                del self._lanes[lane.company]
                if lane.waiting:
                    self._lanes[lane.company] = lane  # behind the others: each in its turn

    def _catch_up(self, lane: Lane, outcome: Outcome) -> None:
        """Goes on behind a parked company's own reader: back into the common stream if it has caught up."""
        state = self._parked[lane.company]
        caught_up = outcome.through >= max(lane.joins_at, 0 if outcome.is_whole else outcome.shows_from)
        if caught_up and outcome.is_whole and outcome.gap is None:
            lane.recovering = False
            self._set_parked(lane.company, None)
            log.info("company %r has caught up and is delivered again", lane.company)
            return
        del self._lanes[lane.company]
        news = outcome.applied.messages if outcome.applied else ()
        arrived = sum(message.rows for message in news)
        waiting = max(state.waiting + lane.rows - arrived, 0)
        if state.partition >= 0:
            state = replace(state, sequence_number=outcome.through + 1)
        state = replace(_located(state, lane), waiting=waiting)
        if outcome.gap is not None:
            state = state.failed_again(_resync(lane.company, outcome.gap), "gap")
        elif caught_up:
            state = state.failed_again(state.reason, "gap")
        else:
            state = replace(state, next_try_at=datetime.now(UTC))  # behind others whose time has come
            if outcome.is_whole and (news or state.kind != "lacking"):
                state = state.catching_up()
        self._set_parked(lane.company, state)

    def _read_again(self, lane: Lane, error: ChangesMissingError) -> None:
        """Has a company's own reader look for what its database lacks; once it has, only the table has it."""
        company, found = lane.company, error.watermark
        first = found.sequence_number + 1
        known = self._delivered.get(company)
        is_older = known is not None and found.sequence_number < known.sequence_number
        self._delivered[company] = self._unsaved.find(company, lane.partition, found)
        state = self._parked[company] if lane.recovering else None
        if state and state.kind == "gap":
            self._park(lane, state.reason, "gap")
        elif state and state.kind == "lacking" and not is_older:  # all since `first` was read, and it is not there
            self._park(lane, self._why_lost(company, str(error)), "gap", first)
        else:
            self._park(lane, str(error), "lacking", first)

    def _park_the_slowest(self) -> bool:
        """Sets a company aside where databases take long and their messages keep others from being read."""
        begun = time.monotonic() - _TAKES_LONG_SECONDS
        slow = [
            (lane.waiting_bytes, lane, lane.task)
            for lane in self._lanes.values()
            if lane.task is not None and lane.started < begun and not lane.recovering
        ]
        if sum(waiting for waiting, _, _ in slow) <= _WAITING_BYTES / 2:
            return False
        _, lane, task = max(slow, key=lambda one: one[0])
        self._give_up(lane, task, parking.SLOW)
        return True

    def _park_the_lossy(self) -> None:
        """Sets companies aside whose newest changes were published but are nowhere to be found."""
        for loss in self._loss_check.losses(self._checkpoints, self._delivered, self._parked):
            if loss.company in self._lanes or not self._worker.is_registered(loss.company):
                continue
            known = self._delivered.get(loss.company)
            place = (known.partition, known.sequence_number + 1) if known else (-1, 1)
            reason = self._why_lost(loss.company, f"the hub has lost its changes up to version {loss.version}")
            log.error("company %r is parked: %s", loss.company, reason)
            state = parking.park(loss.company, *place, datetime.now(UTC), reason, kind="gap")
            self._set_parked(loss.company, replace(state, next_try_at=datetime.now(UTC)))

    def _why_lost(self, company: str, problem: str) -> str:
        """Why a company has a gap, and what to do: the hub has lost something, or it never was published."""
        known = self._delivered.get(company)
        version = quarantine.withheld_version(
            self._store, self._spec.name, company, known.version if known else -1
        )
        if version is None:
            return _resync(company, problem)
        return (
            f"version {version} would have more rows in quarantine than the feed allows, so nothing of it was "
            f"published for the company: see lpm-stream quarantine list, mend the table or the contract, then "
            f"lpm-stream resync --company {shlex.quote(company)}"
        )

    def _park(
        self, lane: Lane, reason: str, kind: parking.Kind = "fault", sequence_number: int | None = None
    ) -> None:
        """Sets a company aside; what waits for it is left to its own reader."""
        company = lane.company
        del self._lanes[company]
        if lane.recovering:
            state = _located(self._parked[company], lane)
            if state.kind == "gap" and kind in ("fault", "held"):  # that has not changed
                kind, reason = state.kind, state.reason
            elif state.kind == "lacking" and kind == "fault":
                kind = state.kind
            state = state.failed_again(reason, kind)
        else:
            first = lane.first_undelivered()
            assert first is not None  # noqa: S101 - a task always has messages in hand
            place = (lane.partition, first.sequence_number)
            state = parking.park(company, *place, first.message.committed_at, reason, kind=kind)
            log.warning("company %r is parked: %s", company, reason)
        waiting = state.waiting + lane.rows
        if sequence_number is not None:
            state = replace(state, sequence_number=sequence_number)
        self._set_parked(company, replace(state, waiting=waiting))

    def _set_parked(self, company: str, state: Parked | None) -> None:
        self._unsaved.parked[company] = state
        if state is None:
            del self._parked[company]
        else:
            self._parked[company] = state

    def _note(self, company: str, partition: int, outcome: Outcome, *, waited: bool) -> None:
        applied = outcome.applied
        if applied is not None:
            latencies = self._unsaved.add(company, partition, applied, waited=waited)
            self._done.companies.setdefault(company, Latencies()).merge(latencies)
            self._done.versions[company] = applied.watermark.version
            self._done.refused += applied.refused
        found = outcome.watermark
        if found is not None and (applied is None or not applied.messages) and self._is_news(company, found):
            known = self._delivered.get(company)
            if known is None or (known.epoch, known.version) < (found.epoch, found.version):
                self._ahead.add(company)
            self._unsaved.find(company, partition, found)
        if company in self._unsaved.delivered:
            self._delivered[company] = self._unsaved.delivered[company]

    def _is_news(self, company: str, found: Watermark) -> bool:
        """Whether a database has something else than is known of it: after a crash, or a backfill."""
        known = self._delivered.get(company)
        if known is None:
            return found.version >= 0
        return (found.epoch, found.version, found.sequence_number) != (
            known.epoch,
            known.version,
            known.sequence_number,
        )

    # Saving

    def _save_if_due(self) -> None:
        self._clock.look()
        age = time.monotonic() - self._saved_at
        news = bool(self._unsaved) or self._checkpoints() != self._saved
        pause = _SAVE_SECONDS if self._lanes or not news else _SAVE_SECONDS / 10
        if age > pause and (news or self._parked or age > leases.TTL.total_seconds() / 3):
            self._save()

    def _save(self) -> None:
        """Writes results, parked companies and checkpoints in one transaction, under the lease."""
        feed = self._spec.name
        reached = self._checkpoints()
        assigned = frozenset[int]() if self._share.alone else self._hub.assigned(feed)
        with self._store.write() as connection:
            self._to_be_split = shares.keep(connection, self._share, assigned)
            self._try_when_asked(connection)
            self._unsaved.save(connection, feed)
            news = {one: number for one, number in reached.items() if self._saved.get(one) != number}
            progress.write_checkpoints(connection, feed, news)
        if self._ahead:
            log.warning(
                "the databases of %d companies, such as %r, had more than the control store knew: a deliverer was "
                "killed, or the control store is an older copy; what they have is not applied again",
                len(self._ahead),
                min(self._ahead),
            )
            self._ahead.clear()
        self._saved = reached
        self._unsaved = Unsaved()
        self._saved_at = time.monotonic()

    def _try_when_asked(self, connection: sa.Connection) -> None:
        """Takes over when parked companies are to be tried, where somebody else has changed that."""
        stored = parking.read_next_tries(connection, self._spec.name) if self._parked else {}
        for company, state in self._parked.items():
            asked = stored.get(company)
            if asked is not None and asked != self._tries.get(company, asked) and asked < state.next_try_at:
                self._set_parked(company, replace(state, next_try_at=asked))
        self._tries = {company: state.next_try_at for company, state in self._parked.items()}

    def _checkpoints(self) -> dict[int, int]:
        """Where each partition has to be read from after a restart; parked companies remember their own place."""
        reached = dict(self._read_through)
        for lane in self._lanes.values():
            first = lane.first_undelivered()
            if first is not None and not lane.recovering:
                reached[lane.partition] = min(reached[lane.partition], first.sequence_number - 1)
        return reached


def _located(state: Parked, lane: Lane) -> Parked:
    """A parked company's state, with the place of its messages if that was not known before its first one came."""
    first = lane.first_undelivered()
    if state.partition >= 0 or first is None:
        return state
    return replace(state, partition=first.partition, sequence_number=first.sequence_number)


def _resync(company: str, problem: str) -> str:
    return f"{problem}; only the table has them still: lpm-stream resync --company {shlex.quote(company)}"
