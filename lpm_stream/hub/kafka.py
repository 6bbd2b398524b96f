"""Kafka, and what speaks its protocol: Redpanda, the Kafka endpoint of Azure Event Hubs.

Offsets count from 0, sequence numbers from 1: a message's sequence number is its offset plus one. Offsets may have
holes (transactions, compaction), so only a start below the log's start is a gap.
"""

import json
import logging
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as Record
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lpm_stream.errors import HubError, HubGapError
from lpm_stream.hub.bounded import all_within
from lpm_stream.hub.kafka_client import Reasons, no_connection, opened, reason
from lpm_stream.hub.kafka_group import KafkaGroup
from lpm_stream.hub.kafka_reader import HEADER, Reader, watermarks
from lpm_stream.hub.kafka_topic import Topic
from lpm_stream.hub.message import Message, Received

log = logging.getLogger(__name__)

_ASK_SECONDS = 10.0
_SEND_SECONDS = 30.0
_POLL_SECONDS = 0.25
_MAX_BODY_BYTES = 900_000  # brokers take 1,048,588 bytes unless set otherwise, with headers and envelope
_PREFETCH_BYTES = 128_000_000  # of all readers together
_READERS = 4  # of a partition: the stream's own and those of companies that catch up
# All connections together: librdkafka's `close` does not come back now and then, else it takes milliseconds.
# Of the 5 s in which a process ends, its transactions in hand may take 4.
_CLOSE_SECONDS = 0.5
_FORGET_SECONDS = 60.0


class KafkaHub:
    """One topic."""

    max_body_bytes = _MAX_BODY_BYTES

    def __init__(self, topic: Topic, partitions: int) -> None:
        """Connects, and creates the topic if it does not exist.

        Args:
            topic: the topic.
            partitions: how many it gets if it is created here.

        Raises:
            HubError: if no broker answers, or the topic can neither be found nor created.
        """
        self._topic = topic
        self._reasons = Reasons(topic)
        self._lock = threading.Lock()
        self._readers: defaultdict[int, list[Reader]] = defaultdict(list)
        self._producer: Producer | None = None
        self._groups: dict[str, KafkaGroup] = {}  # by feed
        self._sent: dict[int, int] = {}  # partition to the sequence number of what we sent last
        self._asker = opened(Consumer, topic, group_id="lpm_stream", enable_auto_commit=False)
        try:
            self._partitions = self._found_partitions() or self._created(partitions)
        except HubError:
            self._close([self._asker.close])
            raise

    def partitions(self) -> Sequence[int]:
        """The partitions' numbers."""
        return self._partitions

    def partition_of(self, company: str) -> int:
        """The partition that a company's messages are sent to: chosen here, since clients hash differently."""
        return self._partitions[zlib.crc32(company.encode()) % len(self._partitions)]

    def send(self, messages: Sequence[Message]) -> None:
        """Sends messages; the producer is idempotent, so that none comes twice or out of order by itself.

        If one cannot be stored, the producer is given up with all that waits in it. Of a partition, Kafka takes
        what is under way from an idempotent producer in its order or not at all, and `enable.gapless.guarantee`
        has the producer stop where one is refused: so nothing is stored behind what is not.
        """
        if self._producer is None:
            self._producer = self._new_producer()
        producer = self._producer
        failed: list[KafkaError] = []

        def note(error: KafkaError | None, record: Record) -> None:
            if error is not None:
                failed.append(error)
            else:
                self._sent[record.partition() or 0] = (record.offset() or 0) + 1

        deadline = time.monotonic() + _SEND_SECONDS
        try:
            for message in messages:
                self._produce(producer, message, note, deadline)
            while (left := producer.flush(_POLL_SECONDS)) and not failed and time.monotonic() < deadline:
                pass
        except (KafkaException, BufferError) as error:
            self._give_up(producer)
            raise HubError(f"{self._name} does not take messages: {reason(self._topic, error)}") from error
        except BaseException:
            self._give_up(producer)
            raise
        if failed or left:
            refused = failed[0].str() if failed else ""
            self._give_up(producer)
            raise HubError(f"{self._name} does not take messages: {refused or self._unconfirmed(left)}")

    def receive(self, partition: int, after: int, max_messages: int) -> list[Received]:
        """The messages behind `after`; waits only for those that the broker has."""
        reader = self._take_reader(partition, after)
        try:
            received = reader.take(max_messages, self._sent.get(partition, 0))
        except KafkaException as error:
            self._retire([reader])
            raise self._failed(partition, error) from error
        except HubGapError:
            self._retire([reader])
            raise
        except HubError:
            self._put_back(reader, partition)  # it may only need longer; the next call goes on waiting
            raise
        self._put_back(reader, partition)
        return received

    def end(self, partition: int) -> int:
        """The sequence number of the newest message, or of what Kafka itself has put behind it."""
        if partition not in self._partitions:
            raise HubError(f"{self._name} has no partition {partition}")
        try:
            with self._lock:
                _, high = watermarks(self._asker, TopicPartition(self._topic.name, partition))
        except KafkaException as error:
            raise self._failed(partition, error) from error
        return high

    def assigned(self, feed: str) -> frozenset[int]:
        """What the feed's consumer group assigns; the first to ask joins it, until the hub is closed."""
        if feed not in self._groups:
            self._groups[feed] = KafkaGroup(self._topic, f"{self._topic.group}.{self._topic.name}.{feed}")
        return self._groups[feed].assigned()

    def close(self) -> None:
        """Closes all connections; those that do not close are left alone."""
        with self._lock:
            readers = [reader for those in self._readers.values() for reader in those]
            self._readers.clear()
        groups = [group.close for group in self._groups.values()]
        self._close([self._asker.close, *groups, *(reader.close for reader in readers)])
        self._groups.clear()
        self._producer = None

    @property
    def _name(self) -> str:
        return str(self._topic)

    def _failed(self, partition: int, error: KafkaException) -> HubError:
        return HubError(f"{self._name}, partition {partition}, cannot be read: {self._reasons.of(error)}")

    def _found_partitions(self) -> range:
        """The topic's partitions, none if it does not exist."""
        try:
            # Of all clients only a consumer asks without creating the topic by that, with one partition.
            found = self._asker.list_topics(self._topic.name, timeout=_ASK_SECONDS).topics[self._topic.name]
        except KafkaException as error:
            raise HubError(f"{self._name} cannot be opened: {reason(self._topic, error)}") from error
        if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise HubError(f"{self._name} cannot be opened: {found.error.str()}")
        return range(len(found.partitions))

    def _created(self, partitions: int) -> range:
        """Creates the topic; of several creators the first decides."""
        retention = {"retention.ms": str(round(self._topic.retention_hours * 3_600_000))}
        new = NewTopic(self._topic.name, partitions, self._topic.replication, config=retention)
        admin = opened(AdminClient, self._topic)
        try:
            admin.create_topics([new], request_timeout=_ASK_SECONDS)[self._topic.name].result(_ASK_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                why = reason(self._topic, error)
                raise HubError(f"{self._name} does not exist and cannot be created: {why}") from error
        deadline = time.monotonic() + _ASK_SECONDS
        while not (found := self._found_partitions()):  # brokers learn of it one after the other
            if time.monotonic() > deadline:
                raise HubError(f"{self._name} was created but does not appear")
            time.sleep(0.05)
        return found

    def _new_producer(self) -> Producer:
        return opened(
            Producer,
            self._topic,
            enable_idempotence=True,
            acks="all",
            linger_ms=5,
            batch_size=1_000_000,
            compression_type="none",  # bodies are compressed
            enable_gapless_guarantee=True,
            message_timeout_ms=0,  # `send` gives up on all of them at once; alone, one would leave a hole
            queue_buffering_max_kbytes=65_536,
        )

    def _produce(self, producer: Producer, message: Message, note: Callable[..., None], deadline: float) -> None:
        headers: list[tuple[str, str | bytes | None]] = [(HEADER, json.dumps(message.properties()).encode())]
        partition = self.partition_of(message.company)
        while True:
            try:
                producer.produce(
                    self._topic.name, message.body, message.company, partition, on_delivery=note, headers=headers
                )
            except BufferError:  # as much waits as may wait
                if time.monotonic() > deadline:
                    raise
                producer.poll(0.1)
            else:
                producer.poll(0)
                return

    def _give_up(self, producer: Producer) -> None:
        """Drops what waits in the producer, so that none of it is sent once the broker is back."""
        producer.purge(in_queue=True, in_flight=True)
        producer.flush(1)
        self._producer = None

    def _unconfirmed(self, messages: int) -> str:
        why = no_connection(self._topic)
        return f"{messages} not confirmed within {_SEND_SECONDS:g} s" + (f": {why}" if why else "")

    def _retire(self, readers: Sequence[Reader]) -> None:
        """Closes readers while others are read from."""
        closes = [reader.close for reader in readers]
        threading.Thread(target=self._close, args=(closes,), name="close-kafka-readers", daemon=True).start()

    def _close(self, closes: Sequence[Callable[[], None]]) -> None:
        try:
            all_within(_CLOSE_SECONDS, closes)
        except (TimeoutError, KafkaException) as error:
            log.warning("%s: connections that do not close are left alone: %s", self._name, error)

    def _put_back(self, reader: Reader, partition: int) -> None:
        with self._lock:
            self._readers[partition].append(reader)

    def _take_reader(self, partition: int, after: int) -> Reader:
        """The reader that stands there, for one caller at a time; a new one if there is none."""
        forgotten = time.monotonic() - _FORGET_SECONDS
        with self._lock:
            readers = self._readers[partition]
            mine = next((reader for reader in readers if reader.position == after), None)
            rest = [reader for reader in readers if reader is not mine]
            keep = sorted((one for one in rest if one.used_at > forgotten), key=lambda one: one.used_at)
            keep = keep[1 - _READERS :]
            self._readers[partition] = keep
        if stale := [one for one in rest if one not in keep]:
            self._retire(stale)
        if mine is not None:
            return mine
        share = _PREFETCH_BYTES // (len(self._partitions) * _READERS)
        return Reader(self._topic, self._name, partition, after, share)
