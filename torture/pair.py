"""A real Kafka broker and a real PostgreSQL, both of which can be killed and started again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lpm_stream_tests.kafka.broker import KafkaBroker, running_broker
from lpm_stream_tests.postgresql import Process, started


@dataclass(frozen=True)
class Pair:
    """The two of them."""

    broker: KafkaBroker
    postgresql: Process

    def places(self, number: int) -> Mapping[str, str]:
        """Settings of a world that has a topic and databases of its own."""
        url = self.postgresql.server.url("PLACE").render_as_string()
        return {
            "hub_url": f"kafka://localhost:{self.broker.port}/tdr-{number}",
            "database_template": url.replace("PLACE", f"world{number}_{{company}}"),
        }


@contextmanager
def running_pair(directory: Path) -> Iterator[Pair]:
    """Both, running until the block ends."""
    directory.mkdir(parents=True)
    with running_broker(directory) as broker, started() as postgresql:
        postgresql.server.run("ALTER SYSTEM SET fsync = off")  # processes are killed here, no power is cut
        postgresql.server.run("SELECT pg_reload_conf()")
        yield Pair(broker, postgresql)
