"""What travels through a hub, and what every hub can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, Self


@dataclass(frozen=True, slots=True)
class Message:
    """Changes of one company from one commit, or one chunk of them.

    Attributes:
        feed: the feed's name.
        company: the company's id; messages of one company keep their order.
        epoch: grows when the cursor is set anew: versions of different epochs cannot be compared.
        version: the commit version in the source table.
        previous: the version before this one that has messages of the company, -1 if there is none; or, if that is
            not known, one that may be later. Whoever has not got so far lacks messages, or may do so.
        committed_at: the commit's time (UTC).
        chunk: number of this chunk within the company's changes of that version, from 0.
        last: whether it is the company's last chunk of that version.
        attempt: names one publishing of that version; chunks of different attempts do not make a whole.
        rows: number of changes in the body.
        fingerprint: of the contract that the rows fit.
        content_type: how the body is encoded.
        body: the encoded changes.
    """

    feed: str
    company: str
    epoch: int
    version: int
    previous: int
    committed_at: datetime
    chunk: int
    last: bool
    attempt: str
    rows: int
    fingerprint: str
    content_type: str
    body: bytes

    def properties(self) -> dict[str, Any]:
        """All but company and body, for a hub to store beside them: text, numbers, booleans."""
        return {
            "feed": self.feed,
            "epoch": self.epoch,
            "version": self.version,
            "previous": self.previous,
            "committed_at": self.committed_at.timestamp(),
            "chunk": self.chunk,
            "last": self.last,
            "attempt": self.attempt,
            "rows": self.rows,
            "fingerprint": self.fingerprint,
            "content_type": self.content_type,
        }

    @classmethod
    def from_properties(cls, company: str, properties: Mapping[str, Any], body: bytes) -> Self:
        """The message that `properties` was made from."""
        committed_at = datetime.fromtimestamp(properties["committed_at"], UTC)
        return cls(company=company, body=body, **{**properties, "committed_at": committed_at})


@dataclass(frozen=True, slots=True)
class Received:
    """A message with its place in the hub."""

    message: Message
    partition: int
    sequence_number: int


class Hub(Protocol):
    """A partitioned log. Safe for one writer and many readers, each in a process of its own.

    Sequence numbers are 1 or larger and grow within a partition. A hub may leave numbers out (Kafka does, where it
    keeps records of its own); whether messages are missing is for the hub to say, not for the numbers.
    """

    @property
    def max_body_bytes(self) -> int:
        """The largest body of a message.

        Raises:
            HubError: if the hub has to be asked, and does not answer.
        """
        ...

    def partitions(self) -> Sequence[int]:
        """The partitions' numbers."""
        ...

    def partition_of(self, company: str) -> int:
        """The partition that a company's messages are sent to."""
        ...

    def send(self, messages: Sequence[Message]) -> None:
        """Appends messages; when it returns they are durable.

        Messages of one company keep their order. After an error, of each company's messages the first few may
        have been stored, none behind one that was not: a later version must never overtake an earlier one, or
        the watermark would cover what was never delivered.

        Raises:
            HubError: if they could not all be stored.
        """
        ...

    def receive(self, partition: int, after: int, max_messages: int) -> list[Received]:
        """The messages behind sequence number `after`, in order; [] if there are none yet.

        It waits only for messages that are there and on their way. Those that others have sent within the last
        second may be left to the next call.

        Raises:
            HubGapError: if messages behind `after` are no longer kept or damaged, with where they go on. Those
                before them are handed out first.
            HubError: if the partition cannot be read.
        """
        ...

    def end(self, partition: int) -> int:
        """The sequence number of the newest message, 0 if there never was one.

        Raises:
            HubError: if the partition cannot be read.
        """
        ...

    def assigned(self, feed: str) -> frozenset[int]:
        """The partitions that the hub gives to whoever asks, of those that share a feed.

        None of them if the hub leaves it to them, or has not said yet. To be asked often: who has asked takes part
        until the hub is closed.

        Raises:
            HubError: if it cannot take part.
        """
        ...

    def close(self) -> None:
        """Releases files and connections."""
        ...
