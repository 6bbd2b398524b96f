"""Reads one partition of a Kafka topic behind one place."""

import json
import math
import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from lpm_stream.errors import HubError, HubGapError
from lpm_stream.hub.kafka_client import PASSING, opened
from lpm_stream.hub.kafka_topic import Topic
from lpm_stream.hub.message import Message, Received

HEADER = "lpm_stream"
"""The name of the header that holds a message's properties."""

_LOOK_SECONDS = 3.0
_PATIENCE_SECONDS = 2.0  # how long a call waits for messages that exist: partitions are read in turn
_POLL_SECONDS = 0.25


class Reader:
    """The messages of one partition behind one place.

    Attributes:
        position: sequence number of the last message that was taken.
        used_at: when somebody last asked, on the monotonic clock.
    """

    def __init__(self, topic: Topic, name: str, partition: int, after: int, prefetch_bytes: int) -> None:
        self.position = after
        self.used_at = time.monotonic()
        self._name = name
        self._place = TopicPartition(topic.name, partition, after)
        self._checked_at = -math.inf
        self._consumer = opened(
            Consumer,
            topic,
            group_id="lpm_stream",  # asked for, but not used: places are kept in the company databases
            enable_auto_commit=False,
            auto_offset_reset="error",
            enable_partition_eof=True,
            isolation_level="read_committed",
            queued_max_messages_kbytes=max(prefetch_bytes // 2048, 1),
            fetch_max_bytes=max(prefetch_bytes // 2, 1_048_576),
            max_partition_fetch_bytes=max(prefetch_bytes // 2, 1_048_576),
            message_max_bytes=1_048_576,
            fetch_wait_max_ms=100,
        )
        self._consumer.assign([self._place])
        self._is_at_end = False
        self._rest: list[Record] = []

    def take(self, max_messages: int, known: int) -> list[Received]:
        """The next messages, [] if there are none.

        Args:
            max_messages: so many at most.
            known: up to this sequence number there are messages.

        Raises:
            HubGapError: if they are no longer kept or not ours.
            KafkaException: if the broker cannot be read.
        """
        self.used_at = time.monotonic()
        deadline = self.used_at + _PATIENCE_SECONDS
        self._require_kept()
        while time.monotonic() < deadline:
            is_at_end = self._is_at_end and self.position >= known
            found = self._rest or self._fetched(max_messages, 0 if is_at_end else _POLL_SECONDS)
            self._rest = []
            received = self._received(found)
            if received:
                self.position = received[-1].sequence_number
                return received
            if self._is_at_end and self.position >= known:
                return []
        raise HubError(
            f"{self._name}, partition {self._place.partition}: nothing came within {_PATIENCE_SECONDS:g} s"
        )

    def close(self) -> None:
        """Closes the connection."""
        self._consumer.close()

    def _fetched(self, max_messages: int, wait_seconds: float) -> list[Record]:
        """What has arrived; waits for the first record only."""
        first = self._consumer.poll(wait_seconds)
        if first is None:
            return []
        return [first, *self._consumer.consume(max_messages - 1, 0)] if max_messages > 1 else [first]

    def _received(self, records: Sequence[Record]) -> list[Received]:
        """What was fetched, up to where something is wrong; that is told when it comes first."""
        received: list[Received] = []
        for at, record in enumerate(records):
            try:
                received += self._checked(record)
            except (HubGapError, KafkaException):
                if not received:
                    raise
                self._rest = list(records[at:])
                break
        return received

    def _checked(self, record: Record) -> list[Received]:
        error = record.error()
        self._is_at_end = error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001
        if error is None:
            return [_message(self._place.partition, record)]
        if not self._is_at_end:
            if error.code() in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):  # noqa: SLF001
                self._checked_at = -math.inf
                self._require_kept()
            if error.code() not in PASSING:
                raise KafkaException(error)
        return []

    def _require_kept(self) -> None:
        """Raises if what comes next is gone; asked once, since the consumer reports it from then on."""
        if self._checked_at > 0:
            return
        low, high = watermarks(self._consumer, self._place)
        partition = self._place.partition
        if self.position > high:
            raise HubGapError(
                f"{self._name}, partition {partition}, ends at message {high}, but message {self.position} was "
                f"read from it: the topic was created anew",
                resume_after=0,
            )
        if self.position < low:
            raise HubGapError(
                f"{self._name}, partition {partition}, no longer keeps messages {self.position + 1} to {low}", low
            )
        self._checked_at = time.monotonic()


def watermarks(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The offset of the oldest record and the one that the next record gets.

    Raises:
        KafkaException: if the broker cannot be asked.
    """
    deadline = time.monotonic() + _LOOK_SECONDS
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, _LOOK_SECONDS)
        except KafkaException as error:  # such as a leader that is still being chosen
            if error.args[0].code() not in PASSING or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return low, high


def _message(partition: int, record: Record) -> Received:
    number = (record.offset() or 0) + 1
    try:
        properties = json.loads(dict(record.headers() or [])[HEADER] or b"")
        key, body = record.key(), record.value()
        company = key.decode() if isinstance(key, bytes) else str(key)
        return Received(Message.from_properties(company, properties, bytes(body or b"")), partition, number)
    except (LookupError, TypeError, ValueError) as error:
        kind = type(error).__name__  # what it says may quote values
        gap = HubGapError(f"Kafka partition {partition}: message {number} is not one of ours ({kind})", number)
        raise gap from None
