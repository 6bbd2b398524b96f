"""Faults for the tests of the protocol: crashes between any two steps, and a hub as bad as a hub may be."""

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from types import MappingProxyType
from typing import Any

import pytest

from lpm_stream.control.store import ControlStore
from lpm_stream.delivery.sqlite import SqliteDatabase, SqliteTransaction
from lpm_stream.errors import HubGapError
from lpm_stream.hub.local import LocalHub
from lpm_stream.hub.message import Message, Received


class Crash(BaseException):
    """The process is gone, as far as anything in it can tell: nobody catches it."""


class Bomb:
    """Counts the steps of everything that runs, and crashes at the one it is set to."""

    def __init__(self, *, for_good: bool = False) -> None:
        """A bomb that is not set.

        Args:
            for_good: whether every later step crashes as well until it is set anew, as after `kill -9` nothing is
                cleaned up; else other threads go on, as workers do that do not know they were replaced.
        """
        self._for_good = for_good
        self._steps_left: int | None = None
        self._lock = threading.Lock()
        self.steps = 0
        """Number of steps since it was set."""
        self.crashed_at: str | None = None
        """Where it went off since it was set."""

    def set(self, steps: int | None) -> None:
        """Crashes after that many steps; None: never."""
        self._steps_left = steps
        self.steps = 0
        self.crashed_at = None

    def step(self, where: str) -> None:
        """A step is reached."""
        if threading.current_thread().name == "keep-lease":  # it works by the clock
            return
        with self._lock:
            if self.crashed_at is None or not self._for_good:
                self.steps += 1
                if self._steps_left is None:
                    return
                self._steps_left -= 1
                if self._steps_left >= 0:
                    return
                self._steps_left = None
                self.crashed_at = where
        raise Crash


class BadHub:
    """A hub that mixes up the chunks of a version, and may crash when it has stored some of what it was given."""

    def __init__(self, hub: LocalHub, bomb: Bomb, chance: random.Random) -> None:
        self.max_body_bytes = hub.max_body_bytes
        self._hub = hub
        self._bomb = bomb
        self._chance = chance
        self.kept_back: list[Message] | None = None
        """Where messages go instead, if it is a list: a publisher that takes long over sending."""

    def partitions(self) -> Sequence[int]:
        return self._hub.partitions()

    def partition_of(self, company: str) -> int:
        return self._hub.partition_of(company)

    def send(self, messages: Sequence[Message]) -> None:
        if self.kept_back is not None:
            self.kept_back += messages
            return
        self._bomb.step("before sending")
        for one in self._mixed(messages):
            self._hub.send([one])
            self._bomb.step("after a message is sent")

    def _mixed(self, messages: Sequence[Message]) -> list[Message]:
        """Chunks of the same company and version in another order, versions in theirs."""
        mixed: list[Message] = []
        for _, version in groupby(messages, key=lambda one: one.version):
            chunks = list(version)
            self._chance.shuffle(chunks)
            mixed += chunks
        return mixed

    def receive(self, partition: int, after: int, max_messages: int) -> list[Received]:
        received = self._hub.receive(partition, after, max_messages)
        self._bomb.step("after reading from the hub")
        return received

    def end(self, partition: int) -> int:
        return self._hub.end(partition)

    def assigned(self, feed: str) -> frozenset[int]:
        return self._hub.assigned(feed)

    def everything(self, partition: int) -> list[Received]:
        """All messages that are not damaged."""
        found: list[Received] = []
        after = 0
        while after < self.end(partition):
            try:
                found += self._hub.receive(partition, after, 1_000_000)
                after = found[-1].sequence_number
            except HubGapError as gap:
                after = gap.resume_after
        return found

    def damage(self, one: Received) -> None:
        """Makes a message one that cannot be read any more."""
        with self._hub._connection(one.partition) as connection, connection:
            damaged = "UPDATE messages SET checksum = checksum + 1 WHERE sequence_number = ?"
            connection.execute(damaged, (one.sequence_number,))

    def close(self) -> None:
        self._hub.close()


def put_steps_between(
    bomb: Bomb,
    patch: pytest.MonkeyPatch,
    database: type = SqliteDatabase,
    transaction: type = SqliteTransaction,
    within_merge: Mapping[str, tuple[type, str]] = MappingProxyType({}),
) -> None:
    """Makes everything durable a step: what is before it, before its commit, and after it.

    Args:
        bomb: what counts the steps.
        patch: what undoes it.
        database: the class of the company databases.
        transaction: the class of their transactions.
        within_merge: what is done to rows on their way: by which method of which class.
    """
    _around_transactions(bomb, patch, ControlStore, "write")
    _around_transactions(bomb, patch, database, "transaction")
    for name in ("watermark", "merge", "store", "sweep", "create_replacement", "fill_replacement", "swap"):
        patch.setattr(transaction, name, step_after(bomb, getattr(transaction, name), name))
    for what, (owner, name) in within_merge.items():
        patch.setattr(owner, name, step_after(bomb, getattr(owner, name), what))


def _around_transactions(bomb: Bomb, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    original = getattr(owner, name)
    label = f"{owner.__name__}.{name}"

    @contextmanager
    def with_steps(self: Any) -> Iterator[Any]:
        bomb.step(f"before {label}")
        with original(self) as transaction:
            yield transaction
            bomb.step(f"before the commit of {label}")
        bomb.step(f"after the commit of {label}")

    patch.setattr(owner, name, with_steps)


def step_after(bomb: Bomb, original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, with a step once it has done its work."""

    def with_step(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        bomb.step(f"after {name}")
        return result

    return with_step
