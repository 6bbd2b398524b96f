"""Faults for the tests of the protocol: crashes between any two steps, and a hub as bad as a hub may be."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
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

    def __init__(self) -> None:
        self._steps_left: int | None = None
        self._lock = threading.Lock()

    def set(self, steps: int | None) -> None:
        """Crashes after that many steps; None: never."""
        self._steps_left = steps

    def step(self) -> None:
        """A step is reached."""
        with self._lock:
            if self._steps_left is None:
                return
            self._steps_left -= 1
            if self._steps_left >= 0:
                return
            self._steps_left = None
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

    def send(self, messages: Sequence[Message]) -> None:
        if self.kept_back is not None:
            self.kept_back += messages
            return
        self._bomb.step()
        for one in self._mixed(messages):
            self._hub.send([one])
            self._bomb.step()

    def _mixed(self, messages: Sequence[Message]) -> list[Message]:
        """Chunks of the same company and version in another order, versions in theirs."""
        mixed: list[Message] = []
        for _, version in groupby(messages, key=lambda one: one.version):
            chunks = list(version)
            self._chance.shuffle(chunks)
            mixed += chunks
        return mixed

    def receive(self, partition: int, after: int, max_messages: int) -> list[Received]:
        return self._hub.receive(partition, after, max_messages)

    def end(self, partition: int) -> int:
        return self._hub.end(partition)

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


def put_steps_between(bomb: Bomb, patch: pytest.MonkeyPatch) -> None:
    """Makes everything durable a step: what is before it, before its commit, and after it."""
    _around_transactions(bomb, patch, ControlStore, "write")
    _around_transactions(bomb, patch, SqliteDatabase, "transaction")
    for name in ("watermark", "merge", "store", "sweep", "create_replacement", "fill_replacement", "swap"):
        patch.setattr(SqliteTransaction, name, _after(bomb, getattr(SqliteTransaction, name)))


def _around_transactions(bomb: Bomb, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    original = getattr(owner, name)

    @contextmanager
    def with_steps(self: Any) -> Iterator[Any]:
        bomb.step()
        with original(self) as transaction:
            yield transaction
            bomb.step()
        bomb.step()

    patch.setattr(owner, name, with_steps)


def _after(bomb: Bomb, original: Callable[..., Any]) -> Callable[..., Any]:
    def with_step(*arguments: Any) -> Any:
        result = original(*arguments)
        bomb.step()
        return result

    return with_step
