"""Which messages of which company wait, are being applied, or are left to a parked company's own reader."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

from lpm_stream.delivery.apply import Applied
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.hub.message import Received

# The size of a company's transaction: large enough to be quick in a backlog, small enough to keep memory low
# and to leave the slot to others soon.
BATCH_ROWS = 10_000
# In a backlog a company's messages are collected for a moment: a transaction costs about as much as 500 rows.
_BACKLOG_SECONDS = 10.0  # commits older than that are one
_COLLECT_SECONDS = 0.5
_QUIET_SECONDS = 0.15  # no message for so long: there are no more for the moment
# A task that takes longer than that over fewer rows waits for its database, and does not work.
_QUICK_SECONDS = 0.05
_FEW_ROWS = 500


@dataclass(frozen=True)
class Outcome:
    """What one task on a company did.

    Attributes:
        applied: the transaction, None if there was nothing to apply.
        through: the sequence number up to which the company is served.
        watermark: the database's watermark now, None if it was not looked at.
        gap: what the company's own reader found to be lost on the way, None if nothing.
        is_whole: whether, after such a loss, the database is known to have all that was published.
        shows_from: the sequence number from which on `through` shows whether it ever will have.
    """

    applied: Applied | None
    through: int
    watermark: Watermark | None = None
    gap: str | None = None
    is_whole: bool = True
    shows_from: int = 0


@dataclass
class Lane:
    """One company's messages on their way into its database, in order.

    Attributes:
        company: its id.
        partition: the hub partition that holds its messages.
        waiting: messages not yet given to a task.
        in_hand: messages that a task is applying.
        task: that task.
        started: when it was started (monotonic seconds).
        recovering: whether the company is parked and the task is its own reader, catching up.
        joins_at: for such a company, the sequence number behind which its messages are in `waiting`.
        waiting_bytes: size of what waits.
        waiting_rows: number of changes that wait.
        waiting_since: when the first of them came (monotonic seconds).
        newest_at: when the last of them came (monotonic seconds).
    """

    company: str
    partition: int
    waiting: deque[Received] = field(default_factory=deque)
    in_hand: Sequence[Received] = ()
    task: Future[Outcome] | None = None
    started: float = 0.0
    recovering: bool = False
    joins_at: int = 0
    waiting_bytes: int = 0
    waiting_rows: int = 0
    waiting_since: float = 0.0
    newest_at: float = 0.0

    def put(self, one: Received) -> None:
        """Adds a message at the end."""
        self.newest_at = monotonic()
        if not self.waiting:
            self.waiting_since = self.newest_at
        self.waiting.append(one)
        self.partition = one.partition  # it was not known if the company was parked before its first message
        self.waiting_bytes += len(one.message.body)
        self.waiting_rows += one.message.rows

    def is_ready(self, now: datetime) -> bool:
        """Whether a task should start: nothing is in hand, and what waits is recent, or enough, or waits long."""
        if self.task is not None or not self.waiting:
            return False
        age = (now - self.waiting[0].message.committed_at).total_seconds()
        return (
            age < _BACKLOG_SECONDS
            or self.waiting_rows >= BATCH_ROWS
            or monotonic() - self.waiting_since >= _COLLECT_SECONDS
            or monotonic() - self.newest_at >= _QUIET_SECONDS
        )

    def leave_to_own_reader(self, sequence_number: int) -> None:
        """Lets what waits for a company that is catching up go, up to that message."""
        self.waiting.clear()
        self.waiting_bytes = self.waiting_rows = 0
        self.joins_at = sequence_number

    @property
    def rows(self) -> int:
        """Number of changes that wait or are being applied."""
        return self.waiting_rows + self.rows_in_hand

    @property
    def rows_in_hand(self) -> int:
        """Number of changes that are being applied."""
        return sum(one.message.rows for one in self.in_hand)

    def first_undelivered(self) -> Received | None:
        """The oldest message that is not known to be applied."""
        if self.in_hand:
            return self.in_hand[0]
        return self.waiting[0] if self.waiting else None

    def take(self) -> list[Received]:
        """Moves a transaction's worth of messages from `waiting` to `in_hand`."""
        batch: list[Received] = []
        rows = 0
        while self.waiting and rows < BATCH_ROWS:
            if batch and self.waiting[0].message.epoch != batch[0].message.epoch:
                break
            batch.append(self.waiting.popleft())
            rows += batch[-1].message.rows
            self.waiting_bytes -= len(batch[-1].message.body)
        self.waiting_rows -= rows
        self.waiting_since = monotonic()
        self.in_hand = batch
        return batch

    @property
    def is_held_up(self) -> bool:
        """Whether a task seems to wait for the company's database."""
        if self.task is None or monotonic() - self.started < _QUICK_SECONDS:
            return False
        return self.rows_in_hand < _FEW_ROWS

    @property
    def is_large(self) -> bool:
        """Whether a whole transaction's worth is being applied."""
        return self.rows_in_hand >= BATCH_ROWS

    def start(self, task: Future[Outcome]) -> None:
        """Notes the task that serves the company now."""
        self.task = task
        self.started = monotonic()

    def finish(self) -> None:
        """Notes that the task is over."""
        self.task = None
        self.in_hand = ()


def next_in_line(ready: Sequence[Lane], free: int, large: int) -> list[Lane]:
    """The companies that get the free slots: in turn, but some slots go first to those that need most of them.

    A company has one slot at a time: in its turn among many small ones, the largest would be at work long after
    all others have caught up.

    Args:
        ready: the lanes whose tasks may start, in turn.
        free: number of free slots.
        large: for how many of them a whole transaction's worth goes first, the most waiting changes before all.
    """
    full = (lane for lane in ready if lane.waiting_rows >= BATCH_ROWS)
    first = sorted(full, key=lambda lane: -lane.waiting_rows)[: max(large, 0)]
    chosen = {lane.company for lane in first}
    others = [lane for lane in ready if lane.company not in chosen]
    return [*first, *others][: max(free, 0)]
