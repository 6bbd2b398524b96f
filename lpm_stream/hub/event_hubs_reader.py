"""Reads one partition of an event hub on from one place, in a thread, a little ahead of who takes the messages."""

import logging
import threading
import time
from collections import deque
from contextlib import closing
from typing import Any

from azure.eventhub import EventData

from lpm_stream.errors import HubGapError
from lpm_stream.hub.event_hubs_client import Access, reason
from lpm_stream.hub.message import Message, Received

log = logging.getLogger(__name__)

LARGEST_MESSAGE_BYTES = 1_048_576  # that we send, whatever the hub takes; all that Event Hubs' lower tiers take
_MAX_CREDIT = 100
_OPEN_SECONDS = 10.0
_GIVE_UP_SECONDS = 10.0
_STUCK_SECONDS = 25.0  # longer than any attempt takes that ends
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_LOOK_SECONDS = 1.0  # between looks whether anybody still wants what waits
FORGET_SECONDS = 60.0
"""After which a reader that nobody used closes itself: its partition may be another relay's by now."""


class Reader:
    """The messages of one partition behind one place.

    Attributes:
        position: sequence number of the last message that was taken.
        used_at: when somebody last asked, on the monotonic clock.
        problem: why it has given up, empty while it has not.
    """

    def __init__(self, access: Access, partition: int, after: int, prefetch_bytes: int) -> None:
        """Begins to read.

        Args:
            access: the hub.
            partition: its number.
            after: the sequence number behind which to begin, 0 for the oldest message that is kept.
            prefetch_bytes: how much may wait here: half of it arrived, half of it on the way.
        """
        self.position = after
        self.used_at = time.monotonic()
        self.problem = ""
        self._access = access
        self._partition = partition
        self._read = after
        self._waiting: deque[Received | HubGapError] = deque()
        self._waiting_bytes = 0
        self._most_bytes = prefetch_bytes // 2
        self._credit = min(max(self._most_bytes // LARGEST_MESSAGE_BYTES, 1), _MAX_CREDIT)
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_full = False
        self._progress_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"event-hub-{partition}", daemon=True)
        self._thread.start()

    @property
    def is_at_work(self) -> bool:
        """Whether it may still have a link."""
        return self._thread.is_alive()

    @property
    def is_well(self) -> bool:
        """Whether it has neither given up nor hangs, as the SDK does while a server does not say a word."""
        is_stuck = not self._is_full and time.monotonic() - self._progress_at > _STUCK_SECONDS
        return not (self.problem or self._is_closed or is_stuck)

    def take(self, max_messages: int, wait_seconds: float = 0) -> list[Received]:
        """The next messages, [] if none has arrived.

        Args:
            max_messages: so many at most.
            wait_seconds: how long to wait for the first one.

        Raises:
            HubGapError: if the next message is not one of ours.
        """
        self.used_at = time.monotonic()
        taken: list[Received] = []
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.problem, wait_seconds)
            while self._waiting and len(taken) < max_messages:
                one = self._waiting[0]
                if isinstance(one, HubGapError):
                    if taken:
                        break
                    self._waiting.popleft()
                    self.position = one.resume_after
                    raise one
                self._waiting.popleft()
                taken.append(one)
                self.position = one.sequence_number
                self._waiting_bytes -= len(one.message.body)
            self._changed.notify_all()
        return taken

    def _is_wanted(self) -> bool:
        """Whether to read on; once nobody has asked for long, never again."""
        with self._changed:
            self._is_closed = self._is_closed or time.monotonic() - self.used_at > FORGET_SECONDS
            return not self._is_closed

    def close(self, wait_seconds: float = 0) -> None:
        """Has the thread end, and waits for that, but no longer than `wait_seconds`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(wait_seconds)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while self._is_wanted():
            before = self._progress_at
            try:
                self._receive()
            except Exception as error:  # noqa: BLE001 - the SDK raises anything; the one who takes is told
                failing = time.monotonic() - self._progress_at
                log.info("event hub partition %d: %s; reading on", self._partition, reason(error))
                if failing > _GIVE_UP_SECONDS:
                    with self._changed:
                        self.problem = reason(error)
                        self._changed.notify_all()
                    return
            pause = _FIRST_PAUSE if self._progress_at > before else min(pause * 2, _LONGEST_PAUSE)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, pause)

    def _receive(self) -> None:
        """Receives over one link until it fails or the reader is closed."""
        with closing(self._access.consumer()) as client, closing(self._link(client)) as link:
            opened_at = time.monotonic()
            while not link._open():  # noqa: SLF001
                if not self._is_wanted():
                    return
                if time.monotonic() - opened_at > _OPEN_SECONDS:
                    raise TimeoutError(f"the link was not opened within {_OPEN_SECONDS:g} s")
            self._progress_at = time.monotonic()
            while self._is_wanted():
                link._handler.do_work(batch=1)  # noqa: SLF001
                self._progress_at = time.monotonic()
                while link._message_buffer:  # noqa: SLF001
                    self._put(link._next_message_in_buffer())  # noqa: SLF001
                self._wait_for_room()

    def _link(self, client: Any) -> Any:
        # What was here before a cut comes again, so a link begins behind what was read, not what was taken.
        start = self._read - 1 if self._read else "-1"
        return client._create_consumer(  # noqa: SLF001
            self._access.consumer_group, str(self._partition), start, lambda _: None, prefetch=self._credit
        )

    def _put(self, event: EventData) -> None:
        number = (event.sequence_number or 0) + 1
        if number <= self._read:  # the SDK may hand out again what it had before a cut
            return
        one = _received(self._partition, number, event)
        with self._changed:
            self._read = number
            self._waiting.append(one)
            if isinstance(one, Received):
                self._waiting_bytes += len(one.message.body)
            self._changed.notify_all()

    def _wait_for_room(self) -> None:
        """While much is waiting, nothing is received; what is on the way is bounded by the credit."""
        with self._changed:
            self._is_full = self._waiting_bytes > self._most_bytes
            while self._is_full and self._is_wanted():
                self._changed.wait(_LOOK_SECONDS)
                self._is_full = self._waiting_bytes > self._most_bytes
            self._progress_at = time.monotonic()
            self._is_full = False


def _received(partition: int, number: int, event: EventData) -> Received | HubGapError:
    body: Any = event.body
    try:
        properties = {_text(name): _text(value) for name, value in (event.properties or {}).items()}
        company = properties.pop("company")
        data = body if isinstance(body, bytes) else b"".join(body)
        return Received(Message.from_properties(company, properties, data), partition, number)
    except (LookupError, TypeError, ValueError) as error:
        kind = type(error).__name__  # what it says may quote values
        return HubGapError(
            f"event hub partition {partition}: message {number} is not one of ours ({kind})", number
        )


def _text(value: Any) -> Any:
    """AMQP's strings come as bytes."""
    return value.decode() if isinstance(value, bytes) else value
