"""What a company's database has applied of a feed, which messages that covers, and what it lacks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from lpm_stream.errors import TargetFaultError
from lpm_stream.hub.message import Message, Received

_ATTEMPTS = 20  # more than publishers that have lost their lease and still send, by far


@dataclass(frozen=True)
class Chunks:
    """The chunks applied so far of one publishing of one version."""

    applied: frozenset[int] = frozenset()
    last: int | None = None

    def plus(self, message: Message) -> Self:
        """With one more chunk."""
        last = message.chunk if message.last else self.last
        return replace(self, applied=self.applied | {message.chunk}, last=last)

    @property
    def complete(self) -> bool:
        """Whether no chunk is missing."""
        return self.last is not None and len(self.applied) == self.last + 1


@dataclass(frozen=True)
class Watermark:
    """What a company's database says it has applied of one feed.

    Attributes:
        epoch: the epoch of `version`.
        version: every change up to and including this commit version is applied.
        sequence_number: of the newest message applied, in the hub.
        fence: of the worker that wrote last.
        changes: number of changes applied, ever.
        pending: chunks of later versions that are applied, by version and attempt. A version is complete when
            all chunks of one attempt are: two attempts may cut the same version differently. Of a version that
            fails again and again only the last attempts are kept.
        hold: fence of the backfill, or replay, that the stream waits for, 0 if there is none.
    """

    epoch: int = 0
    version: int = -1
    sequence_number: int = 0
    fence: int = 0
    changes: int = 0
    pending: Mapping[tuple[int, str], Chunks] = field(default_factory=dict)
    hold: int = 0

    @property
    def is_new(self) -> bool:
        """Whether nothing was applied yet, so that any epoch will do."""
        return self.version < 0 and not self.pending

    def covers(self, one: Received) -> bool:
        """Whether the message has nothing new to say.

        One of an earlier epoch has not, if it lies before what was applied, or the database has taken no message
        yet: who began the new epoch has seen to that.
        """
        message = one.message
        if message.epoch == self.epoch or self.is_new:
            return message.version <= self.version
        passed = one.sequence_number <= self.sequence_number or self.sequence_number == 0
        return message.epoch < self.epoch and passed

    def after(self, received: Iterable[Received], fence: int) -> "Watermark":
        """The watermark once these messages are applied.

        Raises:
            ChangesMissingError: if changes that come before them were never applied.
        """
        mark = replace(self, fence=fence)
        for one in received:
            if mark.covers(one):
                mark = replace(mark, sequence_number=max(mark.sequence_number, one.sequence_number))
            else:
                mark._require_what_comes_before(one.message, self)  # noqa: SLF001 - of its own class
                mark = mark._with(one)  # noqa: SLF001
        return mark

    def _with(self, one: Received) -> Self:
        """One more message. Its sequence number may be the smaller one: of a hub that was replaced."""
        message = one.message
        part = (message.version, message.attempt)
        known = self.pending.get(part, Chunks())
        changes = self.changes + (0 if message.chunk in known.applied else message.rows)
        older = [key for key in self.pending if key[0] == message.version and key != part]
        pending = {key: chunks for key, chunks in self.pending.items() if key not in older[:-_ATTEMPTS]}
        pending[part] = known.plus(message)
        version = self.version
        if pending[part].complete:
            version = message.version
            pending = {key: chunks for key, chunks in pending.items() if key[0] > version}
        return replace(
            self,
            epoch=message.epoch,
            version=version,
            sequence_number=one.sequence_number,
            changes=changes,
            pending=pending,
        )

    def _require_what_comes_before(self, message: Message, stored: "Watermark") -> None:
        if message.epoch != self.epoch and not self.is_new:
            raise ChangesMissingError("the feed was begun anew from its table (its versions count anew)", stored)
        if message.previous > self.version:
            lacking = f"it lacks changes of versions {self.version + 1} to {message.previous}"
            raise ChangesMissingError(lacking, stored)

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Self:
        """The watermark that `to_row` was made from."""
        epoch, version, sequence_number, fence, changes, pending, hold = row
        return cls(epoch, version, sequence_number, fence, changes, pending_from_json(pending), hold)

    def to_row(self) -> tuple[int, int, int, int, int, str, int]:
        """The values of the columns that hold it in a database, in their order there."""
        return (
            self.epoch,
            self.version,
            self.sequence_number,
            self.fence,
            self.changes,
            self.pending_json(),
            self.hold,
        )

    def pending_json(self) -> str:
        """`pending` as text, for the database."""
        parts = [[*part, sorted(chunks.applied), chunks.last] for part, chunks in self.pending.items()]
        return json.dumps(parts)


class ChangesMissingError(TargetFaultError):
    """A database lacks changes that come before those at hand.

    Attributes:
        watermark: what it has.
    """

    def __init__(self, what: str, watermark: Watermark) -> None:
        super().__init__(f"{what}; reading again from behind message {watermark.sequence_number}")
        self.watermark = watermark


def pending_from_json(text: str) -> dict[tuple[int, str], Chunks]:
    """`pending` from its text."""
    return {
        (version, attempt): Chunks(frozenset(applied), last)
        for version, attempt, applied, last in json.loads(text)
    }
