"""What a company's database has applied of a feed, and which messages that covers."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from lpm_stream.hub.message import Message, Received


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
        version: every change up to and including this commit version is applied.
        sequence_number: of the newest message applied, in the hub.
        fence: of the worker that wrote last.
        changes: number of changes applied, ever.
        pending: chunks of later versions that are applied, by version and attempt. A version is complete when
            all chunks of one attempt are: two attempts may cut the same version differently.
    """

    version: int = -1
    sequence_number: int = 0
    fence: int = 0
    changes: int = 0
    pending: Mapping[tuple[int, str], Chunks] = field(default_factory=dict)

    def covers(self, message: Message) -> bool:
        """Whether the message has nothing new to say."""
        return message.version <= self.version

    def after(self, received: Iterable[Received], fence: int) -> "Watermark":
        """The watermark once these messages are applied."""
        version, sequence_number, changes = self.version, self.sequence_number, self.changes
        pending = dict(self.pending)
        for one in received:
            message = one.message
            sequence_number = max(sequence_number, one.sequence_number)
            if message.version <= version:
                continue
            part = (message.version, message.attempt)
            if message.chunk not in pending.get(part, Chunks()).applied:
                changes += message.rows
            pending[part] = pending.get(part, Chunks()).plus(message)
            if pending[part].complete:
                version = message.version
                pending = {key: chunks for key, chunks in pending.items() if key[0] > version}
        return Watermark(version, sequence_number, fence, changes, pending)

    def pending_json(self) -> str:
        """`pending` as text, for the database."""
        parts = [[*part, sorted(chunks.applied), chunks.last] for part, chunks in self.pending.items()]
        return json.dumps(parts)


def pending_from_json(text: str) -> dict[tuple[int, str], Chunks]:
    """`pending` from its text."""
    return {
        (version, attempt): Chunks(frozenset(applied), last)
        for version, attempt, applied, last in json.loads(text)
    }
