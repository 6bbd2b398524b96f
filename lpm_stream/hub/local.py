"""The embedded hub: a log in one SQLite file a partition.

SQLite brings what such a log needs and is easily got wrong by hand: atomic appends that survive `kill -9`, one
writer at a time, readers in other processes that never block it, and space reused after retention.
"""

import json
import math
import os
import sqlite3
import threading
import time
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from lpm_stream.errors import HubError, HubGapError
from lpm_stream.hub.message import Message, Received
from lpm_stream.wal import use_wal

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  sequence_number INTEGER PRIMARY KEY AUTOINCREMENT,
  enqueued_at REAL NOT NULL,
  partition_key TEXT NOT NULL,
  properties TEXT NOT NULL,
  body BLOB NOT NULL,
  checksum INTEGER NOT NULL
) STRICT
"""
_OLDEST = "SELECT sequence_number, enqueued_at FROM messages ORDER BY sequence_number LIMIT ?"
_INSERT = "INSERT INTO messages (enqueued_at, partition_key, properties, body, checksum) VALUES (?, ?, ?, ?, ?)"
_RECEIVE = (
    "SELECT sequence_number, partition_key, properties, body, checksum FROM messages "
    "WHERE sequence_number > ? ORDER BY sequence_number LIMIT ?"
)
_BUSY_SECONDS = 10
_TRIM_EVERY_SECONDS = 60
_TRIM_AT_MOST = 20_000  # messages a turn: retention never holds up a send for long


class LocalHub:
    """A durable, partitioned log in a directory. Its partitions are fixed when it is created."""

    max_body_bytes = 1_000_000  # as an event of Azure Event Hubs, standard tier

    def __init__(self, directory: Path, partitions: int, retention_hours: float) -> None:
        self._directory = directory
        self._retention_seconds = retention_hours * 3600
        self._trimmed_at = -math.inf  # the first send trims: writers may be short-lived
        self._lock = threading.RLock()  # several partitions are written at once
        self._connections: dict[int, sqlite3.Connection] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._partitions = range(_partition_count(directory / "hub.json", partitions))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise HubError(
                f"hub {directory} cannot be opened: {error}; check permissions and free space"
            ) from error

    def partitions(self) -> Sequence[int]:
        """The partitions' numbers."""
        return self._partitions

    def send(self, messages: Sequence[Message]) -> None:
        """Appends messages, each partition's in one transaction on disk.

        If one of the files cannot be written, none is: each new try would fill them with what they have already.
        """
        by_partition: dict[int, list[Message]] = defaultdict(list)
        for message in messages:
            by_partition[self.partition_of(message.company)].append(message)
        now = time.time()
        with ExitStack() as transactions:
            for partition in sorted(by_partition):  # in the same order for all writers, who wait for each other
                connection = transactions.enter_context(self._connection(partition))
                transactions.enter_context(connection)
                connection.executemany(_INSERT, [_record(message, now) for message in by_partition[partition]])
        if time.monotonic() - self._trimmed_at > _TRIM_EVERY_SECONDS:
            self.trim()

    def receive(self, partition: int, after: int, max_messages: int) -> list[Received]:
        """The messages behind `after`, in order, without waiting; those before a damaged one come without it."""
        with self._connection(partition) as connection:
            end = self._end(connection)  # before the messages: what is appended in between is not a gap
            records = connection.execute(_RECEIVE, (after, max_messages)).fetchall()
        if after > end:
            raise HubGapError(
                f"hub partition {partition} ends at message {end}, but message {after} was read from it: its file "
                f"in {self._directory} was replaced",
                resume_after=0,
            )
        if not records and after < end:
            raise self._gap(partition, after + 1, end)
        received: list[Received] = []
        for record in records:
            expected = after + len(received) + 1
            try:
                if record[0] != expected:
                    raise self._gap(partition, expected, record[0] - 1)
                received.append(_received(partition, record))
            except HubError:
                if received:
                    break
                raise
        return received

    def _gap(self, partition: int, first: int, last: int) -> HubGapError:
        return HubGapError(
            f"hub partition {partition} no longer keeps messages {first} to {last} "
            f"(retention {self._retention_seconds / 3600:g} h)",
            resume_after=last,
        )

    def end(self, partition: int) -> int:
        """The sequence number of the newest message."""
        with self._connection(partition) as connection:
            return self._end(connection)

    def trim(self) -> None:
        """Removes messages older than the retention, from the beginning: never any from between others."""
        self._trimmed_at = time.monotonic()
        keep_from = time.time() - self._retention_seconds
        for partition in self._partitions:
            with self._connection(partition) as connection, connection:
                oldest = connection.execute(_OLDEST, (_TRIM_AT_MOST,))
                expired = [number for number, _ in takewhile(lambda one: one[1] < keep_from, oldest)]
                if expired:
                    connection.execute("DELETE FROM messages WHERE sequence_number <= ?", (expired[-1],))

    def assigned(self, feed: str) -> frozenset[int]:  # noqa: ARG002 - as of every hub
        """It assigns none."""
        return frozenset()

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def partition_of(self, company: str) -> int:
        """The partition that a company's messages are sent to."""
        return zlib.crc32(company.encode()) % len(self._partitions)

    @staticmethod
    def _end(connection: sqlite3.Connection) -> int:
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
        return int(row[0]) if row else 0

    @contextmanager
    def _connection(self, partition: int) -> Iterator[sqlite3.Connection]:
        path = self._directory / f"{partition}.db"
        try:
            with self._lock:
                if partition not in self._connections:
                    self._connections[partition] = _connect(path)
                yield self._connections[partition]
        except sqlite3.Error as error:
            raise HubError(
                f"hub file {path}: {error}; check free space and permissions; if the file is damaged, stop the "
                f"stream, move it away, and resync the companies that status then shows"
            ) from error


def _partition_count(path: Path, wanted: int) -> int:
    """The number of partitions written down at creation; the first of several creators decides."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        draft.write_text(json.dumps({"partitions": wanted}), encoding="utf-8")
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it never replaces what another creator wrote
        draft.unlink()
    count = int(json.loads(path.read_text(encoding="utf-8"))["partitions"])
    if count < 1:
        raise ValueError(f"{path} says {count} partitions")
    return count


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        use_wal(connection)
        with connection:
            connection.execute(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _record(message: Message, now: float) -> tuple[float, str, str, bytes, int]:
    text = json.dumps(message.properties())
    return now, message.company, text, message.body, _checksum(message.company, text, message.body)


def _checksum(company: str, properties: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"{company}\0{properties}".encode()))


def _received(partition: int, record: tuple[int, str, str, bytes, int]) -> Received:
    sequence_number, company, text, body, checksum = record
    if _checksum(company, text, body) != checksum:
        raise HubGapError(
            f"hub partition {partition}: message {sequence_number} is damaged (checksum)",
            resume_after=sequence_number,
        )
    return Received(Message.from_properties(company, json.loads(text), body), partition, sequence_number)
