"""What the clients of Event Hubs and Kafka carry, sent and received, through servers on loopback.

The messages are packed as the stream packs them: 400 to 2,000 simulated rows each. One process sends all of them,
then receives all of them.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from bench.measure import Measure
from lpm_stream.feed.load import load_feeds
from lpm_stream.feed.schema import CHANGE_TYPE, contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.codec import AVRO, encode, to_wire
from lpm_stream.hub.message import Hub, Message
from lpm_stream.settings import Settings
from lpm_stream.source.simulate import Simulator
from lpm_stream.stream import open_hub
from lpm_stream_tests.kafka.broker import running_broker, why_not

ROWS, LEAST, MOST, COMPANIES, AT_ONCE = 400_000, 400, 2_000, 50, 8_000_000


def measure(home: Path) -> list[Measure]:
    """Both hubs; Kafka only where there is Java."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    messages = _messages(home)
    measures = []
    with _event_hubs() as url:
        measures += _rates("Event Hubs", url, messages, 50_000)
    if reason := why_not():
        print(f"hubs: Kafka is left out: {reason}", file=sys.stderr)
        return measures
    with running_broker(home) as broker:
        measures += _rates("Kafka", f"kafka://localhost:{broker.port}/bench", messages, 80_000)
    return measures


def _rates(name: str, url: str, messages: list[Message], goal: float) -> list[Measure]:
    rows = sum(message.rows for message in messages)
    with closing(open_hub(Settings(hub_url=url))) as hub:
        hub.send(messages[:1])  # connecting is not part of the throughput
        begun = time.perf_counter()
        for some in _portions(messages[1:]):
            hub.send(some)
        sending = time.perf_counter() - begun
        begun = time.perf_counter()
        received = _received(hub)
        receiving = time.perf_counter() - begun
    assert received == rows
    return [
        Measure(f"hubs: {name}, sent", rows / sending, "rows/s"),
        Measure(f"hubs: {name}, received", rows / receiving, "rows/s"),
        Measure(f"hubs: {name}, sent, then received", rows / (sending + receiving), "rows/s", goal, "above"),
    ]


def _received(hub: Hub) -> int:
    rows = 0
    for partition in hub.partitions():
        after, end = 0, hub.end(partition)
        while after < end:
            for one in hub.receive(partition, after, 500):
                rows += one.message.rows
                after = one.sequence_number
    return rows


def _portions(messages: list[Message]) -> Iterator[list[Message]]:
    """As much as the publish drain sends at once."""
    portion: list[Message] = []
    for message in messages:
        portion.append(message)
        if sum(len(one.body) for one in portion) >= AT_ONCE:
            yield portion
            portion = []
    yield portion


def _messages(home: Path) -> list[Message]:
    spec = next(iter(load_feeds().values()))
    rows = _rows(spec, home / "table")
    chance = random.Random(1)
    found: list[Message] = []
    at = 0
    while at < ROWS:
        size = chance.randint(LEAST, MOST)
        part = rows.slice(chance.randrange(rows.height - size), size)
        found.append(_message(spec, f"C{chance.randrange(COMPANIES):03}", len(found), part))
        at += size
    return found


def _rows(spec: FeedSpec, table: Path) -> pl.DataFrame:
    Simulator(spec, str(table), ["C000"], rate=20_000, seed=1).backlog(20_000, 20_000)
    columns = list(contract_schema(spec))
    rows = pl.read_delta(str(table)).select(columns).with_columns(pl.lit("insert").alias(CHANGE_TYPE))
    return to_wire(rows.cast(contract_schema(spec)), AVRO)  # type: ignore[arg-type]


def _message(spec: FeedSpec, company: str, version: int, rows: pl.DataFrame) -> Message:
    return Message(
        feed=spec.name,
        company=company,
        epoch=0,
        version=version,
        previous=-1,
        committed_at=datetime.now(UTC),
        chunk=0,
        last=True,
        attempt="bench",
        rows=rows.height,
        fingerprint="f" * 16,
        content_type=AVRO,
        body=encode(rows, AVRO),
    )


@contextmanager
def _event_hubs() -> Iterator[str]:
    """The loopback server in a process of its own."""
    command = [sys.executable, "-m", "lpm_stream_tests.amqp.server", "4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        os.environ["LPM_BENCH_EVENT_HUBS"] = server.stdout.readline().strip()
        yield "eventhubs:env:LPM_BENCH_EVENT_HUBS"
        server.stdin.close()
