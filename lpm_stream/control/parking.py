"""Parked companies: set aside from their first undelivered message until their database takes it again."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import sqlalchemy as sa

from lpm_stream.control.store import ControlStore, upsert
from lpm_stream.control.tables import parked

_FIRST_PAUSE = 1.0  # seconds
_LONGEST_PAUSE = 60.0

Kind = Literal["fault", "lacking", "gap", "held"]
PAUSED = "paused; it goes on from here with lpm-stream companies resume"  # the reason begins so
RESUMED = "what it waited for is over; catching up"
SLOW = "its database is slower than its changes come"  # the reason where nothing else is wrong


@dataclass(frozen=True)
class Parked:
    """A parked company.

    Attributes:
        company: its id.
        partition: the hub partition that holds its messages.
        sequence_number: its first undelivered message.
        committed_at: when that message's changes were committed.
        since: when the company was parked.
        reason: why, in words for an operator.
        attempts: how many times delivery has failed.
        next_try_at: when it is tried again.
        kind: fault (of the database), lacking (changes, which are looked for in the hub), gap (they are not
            there, only the table has them still: it needs a resync), held (while a backfill loads the company).
        waiting: number of changes that have come for it since, and are not delivered.
    """

    company: str
    partition: int
    sequence_number: int
    committed_at: datetime
    since: datetime
    reason: str
    attempts: int
    next_try_at: datetime
    kind: Kind = "fault"
    waiting: int = 0

    def is_due(self, now: datetime) -> bool:
        """Whether it is to be tried: also if that is further off than any pause is, by a clock set back since."""
        return self.next_try_at <= now or self.next_try_at > now + timedelta(seconds=_LONGEST_PAUSE)

    def failed_again(self, reason: str, kind: Kind) -> "Parked":
        """The same company after one more failure: the pause doubles, with jitter, unless it is held.

        How long it was held before is not held against it.
        """
        attempts = 0 if kind == "held" else self.attempts
        now = datetime.now(UTC)
        since = now if self.kind == "held" and kind != "held" else self.since
        next_try_at = now + _pause(attempts)
        return replace(self, since=since, reason=reason, attempts=attempts + 1, next_try_at=next_try_at, kind=kind)

    def catching_up(self) -> "Parked":
        """The same company once its database takes its changes again; likewise if it was held."""
        if self.kind == "held":
            return replace(self, since=datetime.now(UTC), reason=RESUMED, kind="fault")
        if self.reason == RESUMED:
            return self
        return replace(self, reason="its database takes its changes again; catching up", kind="fault")


def park(
    company: str,
    partition: int,
    sequence_number: int,
    committed_at: datetime,
    reason: str,
    *,
    kind: Kind = "fault",
) -> Parked:
    """A company that is parked now, after its first failure."""
    now = datetime.now(UTC)
    return Parked(
        company,
        partition,
        sequence_number,
        committed_at,
        now,
        reason,
        attempts=1,
        next_try_at=now + _pause(0),
        kind=kind,
    )


def read_parked(store: ControlStore, feed: str) -> dict[str, Parked]:
    """All parked companies of a feed, by id."""
    with store.read() as connection:
        rows = connection.execute(sa.select(parked).where(parked.c.feed == feed)).all()
    return {
        row.company: Parked(
            row.company,
            row.partition,
            row.sequence_number,
            row.committed_at,
            row.since,
            row.reason,
            row.attempts,
            row.next_try_at,
            row.kind,
            row.waiting,
        )
        for row in rows
    }


def write_parked(connection: sa.Connection, feed: str, company: str, state: Parked | None) -> None:
    """Stores that a company is parked, or with None that it is not."""
    if state is None:
        connection.execute(parked.delete().where(parked.c.feed == feed, parked.c.company == company))
        return
    values = {
        "partition": state.partition,
        "sequence_number": state.sequence_number,
        "committed_at": state.committed_at,
        "since": state.since,
        "reason": state.reason[:2000],
        "attempts": state.attempts,
        "next_try_at": state.next_try_at,
        "kind": state.kind,
        "waiting": state.waiting,
    }
    upsert(connection, parked, {"feed": feed, "company": company}, values)


def try_now(store: ControlStore, feed: str, company: str) -> None:
    """Has a parked company tried again without waiting; a running deliverer sees it within a second or two."""
    mine = (parked.c.feed == feed) & (parked.c.company == company)
    with store.write() as connection:
        connection.execute(parked.update().where(mine).values(next_try_at=datetime.now(UTC)))


def resume(connection: sa.Connection, company: str) -> None:
    """Has a company that was paused tried at once; how long it waited is not held against it."""
    now = datetime.now(UTC)
    mine = (parked.c.company == company) & parked.c.reason.startswith(PAUSED, autoescape=True)
    values = {"since": now, "next_try_at": now, "reason": RESUMED, "kind": "fault"}
    connection.execute(parked.update().where(mine).values(values))


def read_next_tries(connection: sa.Connection, feed: str) -> Mapping[str, datetime]:
    """When each parked company is to be tried again: sooner than was stored, if somebody asked for it."""
    rows = connection.execute(sa.select(parked.c.company, parked.c.next_try_at).where(parked.c.feed == feed))
    return {row.company: row.next_try_at for row in rows}


def _pause(earlier_failures: int) -> timedelta:
    longest = min(_FIRST_PAUSE * 2.0 ** min(earlier_failures, 16), _LONGEST_PAUSE)
    return timedelta(seconds=longest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
