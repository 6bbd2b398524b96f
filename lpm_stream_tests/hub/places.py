"""The hubs under test, of every kind, behind one face: what the conformance suite needs beyond the protocol."""

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from lpm_stream.hub.message import Hub
from lpm_stream.settings import Settings
from lpm_stream.stream import open_hub
from lpm_stream_tests.amqp.server import EventHubsServer
from lpm_stream_tests.kafka.broker import KafkaBroker


@dataclass(frozen=True)
class HubPlace:
    """A hub that is empty and has four partitions.

    Attributes:
        url: its URL, as in `LPM_STREAM_HUB_URL`.
        expire: drops the oldest messages of a partition: (partition, up to which sequence number).
        recreate: makes it anew, empty.
    """

    url: str
    expire: Callable[[int, int], None]
    recreate: Callable[[], None]

    @contextmanager
    def opened(self) -> Iterator[Hub]:
        """The hub, as a program opens it."""
        with closing(open_hub(Settings(hub_url=self.url))) as hub:
            yield hub


def local_place(directory: Path) -> HubPlace:
    """A local hub."""

    def expire(partition: int, through: int) -> None:
        with closing(sqlite3.connect(directory / f"{partition}.db")) as connection:
            connection.execute("DELETE FROM messages WHERE sequence_number <= ?", (through,))
            connection.commit()

    def recreate() -> None:
        for path in directory.iterdir():
            path.unlink()

    return HubPlace(f"local:{directory}", expire, recreate)


def event_hubs_place(server: EventHubsServer, secret: Path) -> HubPlace:
    """An event hub on the loopback server; `secret` is where its connection string goes."""
    secret.write_text(server.connection_string)
    return HubPlace(
        f"eventhubs:file:{secret}",
        lambda partition, through: server.expire(str(partition), through),
        server.recreate,
    )


def kafka_place(broker: KafkaBroker) -> HubPlace:
    """A topic of its own on the broker."""
    name = f"tdr-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": f"localhost:{broker.port}", "log_level": 0})

    def expire(partition: int, through: int) -> None:
        place = TopicPartition(name, partition, through)
        admin.delete_records([place])[place].result(30)

    def recreate() -> None:
        admin.delete_topics([name])[name].result(30)

    return HubPlace(f"kafka://localhost:{broker.port}/{name}", expire, recreate)
