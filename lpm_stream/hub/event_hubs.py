"""Azure Event Hubs over AMQP, with Microsoft's own client.

The client retries first; what remains is retried here. How it behaves where its documentation is silent was
measured (calls that never return, resends that are not announced, reconnecting without pause), and is what the
limits and loops here are for.
"""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from azure.eventhub import EventDataBatch, EventHubProducerClient
from azure.eventhub._buffered_producer._partition_resolver import generate_hash_code
from azure.eventhub.amqp import AmqpAnnotatedMessage
from azure.eventhub.exceptions import AuthenticationError, EventDataSendError, EventHubError

from lpm_stream.errors import HubError, HubGapError
from lpm_stream.hub.bounded import all_within, within
from lpm_stream.hub.event_hubs_client import Access, Ends, Management, reason
from lpm_stream.hub.event_hubs_reader import LARGEST_MESSAGE_BYTES, Reader
from lpm_stream.hub.message import Message, Received

_MARGIN_BYTES = 16_000  # of a batch: a message's properties, its envelope and the batch's own
_MAX_KEY = 128  # characters of a partition key; Event Hubs quotas
_OPEN_SECONDS = 20.0
_SEND_SECONDS = 30.0  # how long a batch is tried again before `send` fails
_CALL_SECONDS = 10.0  # one attempt
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 4.0  # between attempts; a throttled hub asks for 4 s
_PATIENCE_SECONDS = 2.0  # how long a call waits for messages that exist: partitions are read in turn
_ENDS_SECONDS = 1.0  # how long an answer about a partition's end holds while nothing comes
_PREFETCH_BYTES = 128_000_000  # of all readers together
_READERS = 4  # of a partition, at work or not
_MOST_READERS = 5  # with those that are closing, of a partition and consumer group; Event Hubs quotas
_READER_SECONDS = 10.0  # how long a call waits for one that others have
_CLOSE_SECONDS = 1.0  # a reader, which ends by itself; or all of them at the end
# What no second attempt changes.
_FINAL = {"link:message-size-exceeded", "not-found", "not-allowed", "unauthorized-access"}


class EventHubsHub:
    """One event hub, read by one consumer group."""

    def __init__(self, access: Access) -> None:
        """Connects and asks for the partitions.

        Raises:
            HubError: if the hub does not answer, or not to us.
        """
        self._access = access
        self._management = Management(access)
        self._producers: dict[int, EventHubProducerClient] = {}
        self._max_bytes = 0
        self._readers: defaultdict[int, list[Reader]] = defaultdict(list)
        self._lent: defaultdict[int, int] = defaultdict(int)
        self._closing: defaultdict[int, list[Reader]] = defaultdict(list)
        self._ends: dict[int, tuple[float, Ends]] = {}
        self._given_back = threading.Condition()
        ids = self._management.partition_ids()
        self._partitions = sorted(map(int, ids))

    @property
    def max_body_bytes(self) -> int:
        """What the hub takes, or a reader counts on, less what goes with a message."""
        return min(self._max_batch_bytes, LARGEST_MESSAGE_BYTES) - _MARGIN_BYTES

    @property
    def _max_batch_bytes(self) -> int:
        """The hub's limit, asked of it when first needed."""
        if not self._max_bytes:
            first = self._partitions[0]
            producer = self._producer(first)
            try:
                self._max_bytes = within(_OPEN_SECONDS, lambda: producer.create_batch().max_size_in_bytes)
            except (EventHubError, TimeoutError) as error:
                self._forget(first)
                raise HubError(f"{self._access.name} does not take messages: {reason(error)}") from error
        return self._max_bytes

    def partitions(self) -> Sequence[int]:
        """The partitions' numbers."""
        return self._partitions

    def send(self, messages: Sequence[Message]) -> None:
        """Sends messages, in batches as large as the hub takes, each partition's one behind the other.

        A batch goes to the partition that Event Hubs itself would choose for its partition keys, so one batch
        carries many companies.
        """
        lanes: defaultdict[int, list[Message]] = defaultdict(list)
        for message in messages:
            lanes[self.partition_of(message.company)].append(message)
        if not lanes:
            return
        max_bytes = self._max_batch_bytes
        stop = threading.Event()
        deadline = time.monotonic() + _SEND_SECONDS
        calls = [
            partial(self._send_in_order, partition, _batches(partition, lane, max_bytes), deadline, stop)
            for partition, lane in lanes.items()
        ]
        try:
            all_within(_SEND_SECONDS + _CALL_SECONDS, calls)
        except TimeoutError as error:
            self._producers.clear()  # threads may hang in them for good
            raise HubError(f"{self._access.name} has not confirmed messages: {error}") from error
        finally:
            stop.set()
            self._ends.clear()

    def receive(self, partition: int, after: int, max_messages: int) -> list[Received]:
        """The messages behind `after`; waits only for those that the hub says it has."""
        with self._reader(partition, after) as reader:
            received = reader.take(max_messages) or self._awaited(reader, partition, after, max_messages)
        return self._whole(partition, after, received)

    def end(self, partition: int) -> int:
        """The sequence number of the newest message: Event Hubs counts from 0, so one more than there."""
        return self._management.ends(partition).end

    def assigned(self, feed: str) -> frozenset[int]:  # noqa: ARG002 - as of every hub
        """It assigns none."""
        return frozenset()

    def close(self) -> None:
        """Closes all connections; those that do not answer are left alone."""
        with self._given_back:
            readers = [reader for those in self._readers.values() for reader in those]
            self._readers.clear()
        for reader in readers:
            reader.close()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for reader in readers:
            reader.close(wait_seconds=max(deadline - time.monotonic(), 0))
        self._management.close()
        for partition in list(self._producers):
            self._forget(partition)

    def _producer(self, partition: int) -> EventHubProducerClient:
        if partition not in self._producers:
            self._producers[partition] = self._access.producer()
        return self._producers[partition]

    def _forget(self, partition: int) -> None:
        producer = self._producers.pop(partition, None)
        if producer is not None:
            self._access.close_quietly(producer.close)

    def partition_of(self, company: str) -> int:
        """The partition that a company's messages are sent to."""
        # The hash takes characters for bytes; Event Hubs hashes UTF-8.
        key = _partition_key(company).encode().decode("latin-1")
        # As the SDKs for .NET and Java, which are ports of the service's code; Python's takes another remainder.
        number: int = abs(generate_hash_code(key)) % len(self._partitions)  # type: ignore[no-untyped-call]
        return self._partitions[number]

    def _send_in_order(
        self,
        partition: int,
        batches: Iterator[EventDataBatch],
        deadline: float,
        stop: threading.Event,
    ) -> None:
        """Sends one partition's batches, none before the one in front of it is stored."""
        for batch in batches:
            pause = _FIRST_PAUSE
            while not stop.is_set():
                try:
                    self._producer(partition).send_batch(batch, timeout=_CALL_SECONDS)
                    break
                except EventHubError as error:
                    if not isinstance(error, EventDataSendError):
                        self._forget(partition)  # the SDK may fail to close a broken connection, and go on with it
                    final = error.error in _FINAL or isinstance(error, AuthenticationError)
                    if final or time.monotonic() + pause > deadline:
                        raise HubError(f"{self._access.name} does not take messages: {reason(error)}") from error
                stop.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    @contextmanager
    def _reader(self, partition: int, after: int) -> Iterator[Reader]:
        """The reader that stands there, for one caller at a time; a new one if there is none."""
        with self._given_back:
            if not self._given_back.wait_for(lambda: self._lent[partition] < _READERS, _READER_SECONDS):
                raise HubError(f"{self._access.name}, partition {partition}: all {_READERS} readers are at work")
            self._lent[partition] += 1
            reader = self._at_hand(partition, after)
        try:
            reader = reader or self._new_reader(partition, after)
            yield reader
        except HubGapError:
            if reader:
                reader.close()
            raise
        finally:
            with self._given_back:
                self._lent[partition] -= 1
                if reader:  # it may only need longer; the next call goes on waiting
                    self._readers[partition].append(reader)
                self._given_back.notify()

    def _at_hand(self, partition: int, after: int) -> Reader | None:
        """The reader that stands there and is not at work."""
        readers = self._readers[partition]
        found = next((one for one in readers if one.position == after and one.is_well), None)
        if found:
            readers.remove(found)
        return found

    def _new_reader(self, partition: int, after: int) -> Reader:
        """A new one, once there is room for it."""
        with self._given_back:
            readers = self._readers[partition]
            well = [one for one in readers if one.is_well]
            keep = sorted(well, key=lambda one: one.used_at, reverse=True)[: _READERS - self._lent[partition]]
            closing = [one for one in self._closing[partition] if one.is_at_work]
            closing += [one for one in readers if one not in keep]
            self._readers[partition], self._closing[partition] = keep, closing
            too_many = self._lent[partition] + len(keep) + len(closing) - _MOST_READERS
        for one in closing:
            one.close()
        for one in closing[: max(too_many, 0)]:
            one.close(wait_seconds=_CLOSE_SECONDS)
        share = _PREFETCH_BYTES // (len(self._partitions) * _READERS)
        return Reader(self._access, partition, after, share)

    def _awaited(self, reader: Reader, partition: int, after: int, max_messages: int) -> list[Received]:
        """Nothing if there is nothing; what the hub says it has is waited for."""
        ends = self._fresh_ends(partition, after)
        self._require_kept(partition, after, ends)
        if after >= ends.end:
            return []
        received = reader.take(max_messages, wait_seconds=_PATIENCE_SECONDS)
        if not received:
            problem = reader.problem or f"nothing came within {_PATIENCE_SECONDS:g} s"
            raise HubError(f"{self._access.name}, partition {partition}: {problem}")
        return received

    def _fresh_ends(self, partition: int, after: int) -> Ends:
        asked_at, ends = self._ends.get(partition, (0.0, None))
        if ends is None or after > ends.end or time.monotonic() - asked_at > _ENDS_SECONDS:
            ends = self._management.ends(partition)
            self._ends[partition] = (time.monotonic(), ends)
        return ends

    def _require_kept(self, partition: int, after: int, ends: Ends) -> None:
        """Raises if what comes next is gone, also where nothing is left to show it."""
        if after > ends.end:  # asked twice: the answer may be older than the message
            time.sleep(_ENDS_SECONDS)
            ends = self._management.ends(partition)
        if after > ends.end:
            raise HubGapError(
                f"{self._access.name}, partition {partition}, ends at message {ends.end}, but message {after} was "
                f"read from it: the event hub was created anew",
                resume_after=0,
            )
        if after < ends.before_oldest:
            raise self._gap(partition, after + 1, ends.before_oldest)

    def _gap(self, partition: int, first: int, last: int) -> HubGapError:
        return HubGapError(
            f"{self._access.name}, partition {partition}, no longer keeps messages {first} to {last}", last
        )

    def _whole(self, partition: int, after: int, received: list[Received]) -> list[Received]:
        """What comes without a gap; numbers in a partition have no holes."""
        for at, one in enumerate(received):
            expected = after + at + 1
            if one.sequence_number != expected and at:
                return received[:at]
            if one.sequence_number != expected:
                raise self._gap(partition, expected, one.sequence_number - 1)
        return received


def _batches(partition: int, messages: Sequence[Message], max_bytes: int) -> Iterator[EventDataBatch]:
    """Batches filled up to the limit; the messages keep their order."""
    batch = EventDataBatch(max_bytes, partition_id=str(partition))
    for message in messages:
        event = _event(message)
        try:
            batch.add(event)
        except ValueError:  # it is full
            if len(batch):
                yield batch
            batch = EventDataBatch(max_bytes, partition_id=str(partition))
            _add_alone(batch, event, message)
    yield batch


def _add_alone(batch: EventDataBatch, event: AmqpAnnotatedMessage, message: Message) -> None:
    try:
        batch.add(event)
    except ValueError as error:
        raise HubError(
            f"version {message.version} of company {message.company!r}: a message of {len(message.body):,} bytes "
            f"is larger than the event hub takes ({batch.max_size_in_bytes:,})"
        ) from error


def _event(message: Message) -> AmqpAnnotatedMessage:
    properties = {name: _typed(value) for name, value in message.properties().items()}
    return AmqpAnnotatedMessage(
        data_body=message.body,
        annotations={b"x-opt-partition-key": _partition_key(message.company)},
        application_properties={"company": message.company, **properties},
    )


def _typed(value: object) -> object:
    """The client takes a plain number for one of 32 bits."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return {"TYPE": "LONG", "VALUE": value} if is_number else value


def _partition_key(company: str) -> str:
    """The company, or what stands for one that is too long; the message says in full whose it is."""
    return company if len(company.encode()) <= _MAX_KEY else hashlib.sha256(company.encode()).hexdigest()
