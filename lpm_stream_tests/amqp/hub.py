"""What an event hub keeps: partitions of numbered events, and the messages that they travel in."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lpm_stream_tests.amqp.codec import Described, Symbol, Timestamp, ULong, decode, encode

HEADER, ANNOTATIONS, PROPERTIES, APPLICATION, DATA, VALUE = 0x70, 0x72, 0x73, 0x74, 0x75, 0x77
MAX_PARTITION_KEY = 128  # characters; Event Hubs quotas
_SELECTOR = re.compile(r"amqp\.annotation\.x-opt-(sequence-number|offset) (>=?) '(-?\d+|@latest)'")


@dataclass(frozen=True)
class Event:
    """One event as it is kept.

    Attributes:
        number: its sequence number, from 0.
        offset: its offset, which is not its sequence number.
        key: its partition key.
        sections: the sections of the message, without annotations.
    """

    number: int
    offset: int
    enqueued_ms: int
    key: str | None
    sections: bytes

    def encoded(self) -> bytes:
        """The message as a receiver gets it."""
        annotations = {
            Symbol("x-opt-sequence-number"): self.number,
            Symbol("x-opt-offset"): str(self.offset),
            Symbol("x-opt-enqueued-time"): Timestamp(self.enqueued_ms),
        }
        if self.key is not None:
            annotations[Symbol("x-opt-partition-key")] = self.key
        return encode(Described(ULong(ANNOTATIONS), annotations)) + self.sections


@dataclass
class Partition:
    """The events of one partition; listeners are called when there are more."""

    events: list[Event] = field(default_factory=list)
    next_number: int = 0
    next_offset: int = 0
    listeners: set[Callable[[], None]] = field(default_factory=set)

    def append(self, batch: bytes) -> None:
        """Keeps every event of a batch, whose data sections are one encoded message each."""
        for section in sections(batch):
            if section.descriptor == DATA:
                self._append(section.value)
        for listener in list(self.listeners):
            listener()

    def _append(self, message: bytes) -> None:
        key = None
        kept = b""
        for section in sections(message):
            if section.descriptor == ANNOTATIONS:
                key = section.value.get(Symbol("x-opt-partition-key"))
            elif section.descriptor != HEADER:
                kept += encode(Described(ULong(section.descriptor), section.value))
        if key is not None and len(key) > MAX_PARTITION_KEY:
            raise ValueError("the partition key is too long")
        event = Event(self.next_number, self.next_offset, int(time.time() * 1000), key, kept)
        self.events.append(event)
        self.next_number += 1
        self.next_offset += len(message) + 40

    def behind(self, number: int) -> Event | None:
        """The first event whose sequence number is larger."""
        at = max(number + 1 - self.events[0].number, 0) if self.events else 0
        return self.events[at] if at < len(self.events) else None

    def expire(self, count: int) -> None:
        """Drops the oldest events, as retention does."""
        del self.events[:count]

    def start(self, selector: str | None) -> int:
        """The sequence number behind which a receiver wants to read."""
        found = _SELECTOR.fullmatch(selector or "amqp.annotation.x-opt-offset > '-1'")
        if found is None:
            raise ValueError(f"selector {selector!r}")
        kind, comparison, text = found.groups()
        if text == "@latest":
            return self.next_number - 1
        value = int(text) - (comparison == ">=")
        if kind == "sequence-number":
            return value
        return max((event.number for event in self.events if event.offset <= value), default=-1)

    def properties(self, hub: str, partition: str) -> dict[str, Any]:
        """What the management node says about it."""
        newest = self.events[-1] if self.events else None
        return {
            "name": hub,
            "type": "com.microsoft:partition",
            "partition": partition,
            "begin_sequence_number": self.events[0].number if self.events else self.next_number,
            "last_enqueued_sequence_number": self.next_number - 1,
            "last_enqueued_offset": str(newest.offset) if newest else "-1",
            "last_enqueued_time_utc": Timestamp(newest.enqueued_ms if newest else 0),
            "is_partition_empty": not self.events,
        }


def sections(message: bytes) -> list[Described]:
    """The sections of an encoded message."""
    view, at, found = memoryview(message), 0, []
    while at < len(view):
        section, at = decode(view, at)
        found.append(section)
    return found
