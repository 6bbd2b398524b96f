"""The Kafka client against a real broker that goes away and comes back."""

import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from lpm_stream.errors import HubError, HubGapError, LpmStreamError
from lpm_stream.hub import kafka, kafka_group
from lpm_stream.hub.kafka import KafkaHub
from lpm_stream.hub.kafka_group import KafkaGroup
from lpm_stream.hub.kafka_reader import Reader
from lpm_stream.hub.kafka_topic import topic
from lpm_stream.hub.message import Received
from lpm_stream.settings import Settings
from lpm_stream.stream import open_hub
from lpm_stream_tests.hub.follow import follow
from lpm_stream_tests.hub.messages import message
from lpm_stream_tests.kafka.broker import KafkaBroker, running_broker

COMPANIES = ["A", "B", "C", "D"]


@pytest.fixture
def place(broker: KafkaBroker) -> str:
    return f"//localhost:{broker.port}/tdr-{uuid.uuid4().hex}"


@pytest.fixture
def hub(place: str) -> Iterator[KafkaHub]:
    with closing(KafkaHub(topic(place), 2)) as opened:
        yield opened


def received(hub: KafkaHub, partition: int, after: int = 0) -> list[Received]:
    found: list[Received] = []
    while more := hub.receive(partition, found[-1].sequence_number if found else after, 50):
        found += more
    return found


def versions(hub: KafkaHub, company: str) -> list[int]:
    ones = [one for partition in hub.partitions() for one in received(hub, partition)]
    return [one.message.version for one in ones if one.message.company == company]


def partition_of(hub: KafkaHub, company: str) -> int:
    [found] = {
        one.partition
        for partition in hub.partitions()
        for one in received(hub, partition)
        if one.message.company == company
    }
    return found


def other_producer(place: str, **more: object) -> tuple[Producer, str]:
    found = topic(place)
    return Producer({"bootstrap.servers": found.servers, "log_level": 0, **more}), found.name


def test_a_broker_that_is_killed_under_traffic_loses_nothing_and_nothing_overtakes(tmp_path):
    rounds = 60
    with running_broker(tmp_path) as broker:
        place = f"//localhost:{broker.port}/tdr"
        with closing(KafkaHub(topic(place), 2)) as hub, closing(KafkaHub(topic(place), 2)) as writer:
            sent = 0

            def write() -> None:
                nonlocal sent
                for version in range(rounds):
                    writer.send([message(company, version) for company in COMPANIES])
                    sent += 1
                    time.sleep(0.02)

            thread = threading.Thread(target=write)
            thread.start()
            while sent < rounds // 3:
                time.sleep(0.01)
            broker.kill()
            broker.start()
            found = follow(hub, COMPANIES, rounds)
            thread.join()
            assert found == {company: list(range(rounds)) for company in COMPANIES}


def test_a_broker_that_stays_away_is_an_error_and_what_it_did_not_take_never_comes(tmp_path, monkeypatch):
    with running_broker(tmp_path) as broker, closing(KafkaHub(topic(f"//localhost:{broker.port}/tdr"), 1)) as hub:
        hub.send([message("A", 1)])
        broker.kill()
        with monkeypatch.context() as hurried:
            hurried.setattr(kafka, "_SEND_SECONDS", 1.0)
            with pytest.raises(HubError, match=r"2 not confirmed within 1 s: .*Connection refused"):
                hub.send([message("A", version) for version in (2, 3)])
        broker.start()
        hub.send([message("A", 4)])
        assert versions(hub, "A") == [1, 4]


def test_a_message_over_the_limit_is_refused_and_nothing_comes_behind_it(hub):
    sizes = [10, 2_000_000, 10]
    with pytest.raises(HubError, match="does not take messages"):
        hub.send([message("A", version, body=b"x" * size) for version, size in enumerate(sizes)])
    assert versions(hub, "A") in ([], [0])


def test_what_the_broker_refuses_is_not_overtaken(broker):
    place = f"//localhost:{broker.port}/tdr-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": f"localhost:{broker.port}"})
    name = topic(place).name
    admin.create_topics([NewTopic(name, 1, 1, config={"max.message.bytes": "700000"})])[name].result(30)
    with closing(KafkaHub(topic(place), 1)) as hub:
        bodies = [b"x" * size for size in (600_000, 800_000, 600_000, 600_000)]  # each a batch of its own
        with pytest.raises(HubError, match="does not take messages"):
            hub.send([message("A", version, body=body) for version, body in enumerate(bodies)])
        assert versions(hub, "A") in ([], [0])
        hub.send([message("A", 5)])
        assert versions(hub, "A")[-1] == 5


def test_offsets_with_holes_are_not_gaps(place, hub):
    """A transaction ends in a record of Kafka's own, which takes an offset."""
    hub.send([message("A", 1)])
    partition = partition_of(hub, "A")
    producer, name = other_producer(place, **{"transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    for version, commit in ((2, True), (3, False), (4, True)):
        producer.begin_transaction()
        one = message("A", version)
        headers: list[tuple[str, str | bytes | None]] = [("lpm_stream", json.dumps(one.properties()).encode())]
        producer.produce(name, one.body, "A", partition, headers=headers)
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    found = received(hub, partition)
    assert [one.message.version for one in found] == [1, 2, 4]
    assert [one.sequence_number for one in found] == [1, 2, 6]
    hub.send([message("A", 5)])
    assert [one.message.version for one in received(hub, partition, after=6)] == [5]


def test_a_record_of_another_program_is_named_and_passed_by(place, hub):
    hub.send([message("A", 1)])
    partition = partition_of(hub, "A")
    producer, name = other_producer(place)
    producer.produce(name, b"abc", "A", partition)
    producer.flush(30)
    hub.send([message("A", 2)])
    assert [one.message.version for one in hub.receive(partition, 0, 10)] == [1]
    with pytest.raises(HubGapError, match="message 2 is not one of ours") as caught:
        hub.receive(partition, 1, 10)
    assert caught.value.resume_after == 2
    assert [one.message.version for one in received(hub, partition, after=2)] == [2]


def test_a_topic_that_exists_keeps_its_partitions(place, hub):
    with closing(KafkaHub(topic(place), 7)) as again:
        assert list(again.partitions()) == [0, 1]


def test_a_topic_has_as_many_copies_as_is_said_or_as_the_brokers_make(place, hub):
    assert topic(place).replication == -1
    with pytest.raises(HubError, match=r"cannot be created: .*[Rr]eplication factor"):
        KafkaHub(topic(f"{place}-two?replication=2"), 2)  # of one broker
    with closing(KafkaHub(topic(f"{place}-one?replication=1"), 2)) as one:
        assert list(one.partitions()) == list(hub.partitions())


def test_a_broker_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(kafka, "_ASK_SECONDS", 0.5)
    with pytest.raises(HubError, match=r"Kafka topic tdr at localhost:1 cannot be opened: .*Connection refused"):
        open_hub(Settings(hub_url="kafka://localhost:1/tdr"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://localhost:9092", "kafka://HOST:PORT/TOPIC"),
        ("kafka:localhost/tdr", "kafka://HOST:PORT/TOPIC"),
        ("kafka://localhost/tdr?acks=1", "not acks"),
        ("kafka://localhost/tdr?replication=many", "are numbers"),
        ("kafka://localhost/tdr?password=c2VjcmV0", "reference to the secret"),
    ],
)
def test_a_url_that_says_too_little_or_too_much(url, says):
    with pytest.raises(LpmStreamError, match=says) as caught:
        open_hub(Settings(hub_url=url))
    assert "c2VjcmV0" not in str(caught.value)


def test_the_kafka_endpoint_of_event_hubs_needs_the_connection_string_only(monkeypatch):
    monkeypatch.setenv("SECRET", "Endpoint=sb://ns.servicebus.windows.net;SharedAccessKey=x")
    found = topic("//ns.servicebus.windows.net:9093/tdr?password=env:SECRET")
    assert found.settings()["security.protocol"] == "SASL_SSL"
    assert found.settings()["sasl.mechanism"] == "PLAIN"
    assert found.settings()["sasl.username"] == "$ConnectionString"
    assert found.settings()["sasl.password"].endswith("SharedAccessKey=x")
    assert "SharedAccessKey" not in repr(found)


def shares_of(*hubs: KafkaHub) -> list[set[int]]:
    """What each of them is given, once that is all of the topic and nothing twice."""
    end = time.monotonic() + 60
    while True:
        found = [set(hub.assigned("tdr")) for hub in hubs]
        if all(found) and sorted(one for mine in found for one in mine) == list(hubs[0].partitions()):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


def test_a_consumer_group_gives_each_its_share(place, monkeypatch):
    monkeypatch.setattr(kafka_group, "_SESSION_MILLISECONDS", 300_000)  # who closes leaves at once
    monkeypatch.setattr(kafka_group, "_PAUSE_MILLISECONDS", 300_000)
    with closing(KafkaHub(topic(place), 4)) as first:
        assert first.assigned("tdr") == set()  # the group has not said yet
        assert shares_of(first) == [{0, 1, 2, 3}]
        with closing(KafkaHub(topic(place), 4)) as second:
            assert [len(one) for one in shares_of(first, second)] == [2, 2]
        assert shares_of(first) == [{0, 1, 2, 3}]
        first.send([message("A", 1)])
        assert versions(first, "A") == [1]


def test_groups_of_other_names_and_other_feeds_share_nothing(place):
    with (
        closing(KafkaHub(topic(place), 4)) as first,
        closing(KafkaHub(topic(f"{place}?group=another"), 4)) as second,
    ):
        first.assigned("calls")
        assert shares_of(first) == shares_of(second) == [{0, 1, 2, 3}]


def test_what_keeps_somebody_out_of_a_group_is_said_once(caplog):
    group = KafkaGroup(topic("//localhost:1/tdr"), "lpm_stream.tdr.tdr")
    group.close()
    refused = SimpleNamespace(error=lambda: KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    away = SimpleNamespace(error=lambda: KafkaError(KafkaError._TRANSPORT))
    records = iter([refused, away, None, refused, None])
    group._consumer = cast("Consumer", SimpleNamespace(poll=lambda _: next(records)))
    assert group.assigned() == group.assigned() == set()
    [warning] = [one.getMessage() for one in caplog.records]
    assert warning.startswith(
        "Kafka topic tdr at localhost:1, consumer group lpm_stream.tdr.tdr: Broker: Group auth"
    )


Watermarks = Callable[..., tuple[int, int]]


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> KafkaHub:
    monkeypatch.setattr(KafkaHub, "_found_partitions", lambda _: range(1))
    return KafkaHub(topic("//localhost:1/tdr"), 1)


def reader(close: Callable[[], object], used_at: float = math.inf, watermarks: Watermarks | None = None) -> Any:
    """One behind message 7 whose consumer closes like that."""
    found = Reader(topic("//localhost:1/tdr"), "tdr", 0, after=7, prefetch_bytes=1_000_000)
    found._consumer.close()
    found._consumer = cast("Consumer", SimpleNamespace(close=close, get_watermark_offsets=watermarks))
    found.used_at = used_at
    return found


def refused(*_: object) -> tuple[int, int]:
    raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


def record(offset: int) -> Any:
    one = message("A", offset)
    headers = [("lpm_stream", json.dumps(one.properties()).encode())]
    return SimpleNamespace(
        error=lambda: None,
        offset=lambda: offset,
        headers=lambda: headers,
        key=lambda: b"A",
        value=lambda: one.body,
    )


def test_messages_in_hand_come_before_the_gap_behind_them():
    """They were fetched before retention took them and what comes next."""
    oldest = iter([0])
    found = reader(lambda: None, watermarks=lambda *_: (next(oldest, 12), 20))
    wrong = SimpleNamespace(error=lambda: KafkaError(KafkaError._AUTO_OFFSET_RESET))
    fetched: Any = SimpleNamespace(poll=lambda _: record(7), consume=lambda *_: [record(8), wrong])
    found._consumer.poll, found._consumer.consume = fetched.poll, fetched.consume
    assert [one.sequence_number for one in found.take(10, known=20)] == [8, 9]
    with pytest.raises(HubGapError, match="no longer keeps messages 10 to 12") as caught:
        found.take(10, known=20)
    assert caught.value.resume_after == 12


def test_all_connections_are_closed_side_by_side(unconnected, monkeypatch):
    monkeypatch.setattr(kafka, "_CLOSE_SECONDS", 60.0)
    all_at_it = threading.Barrier(4)
    unconnected._readers[0] = [reader(lambda: all_at_it.wait(5)) for _ in range(4)]
    unconnected.close()
    assert not all_at_it.broken


def test_connections_that_do_not_close_are_counted_and_left_alone(unconnected, monkeypatch, caplog):
    monkeypatch.setattr(kafka, "_CLOSE_SECONDS", 1.0)  # the others do, also on a busy machine
    never = threading.Event()
    unconnected._readers[0] = [reader(never.wait) for _ in range(4)]
    unconnected.close()
    never.set()
    [warning] = [one.getMessage() for one in caplog.records]
    assert warning.startswith("Kafka topic tdr at localhost:1: connections that do not close are left alone")
    assert warning.endswith("(4 of 5 calls)")


def test_who_reads_does_not_wait_until_those_are_closed_that_nobody_needs(unconnected, monkeypatch):
    monkeypatch.setattr(kafka, "_CLOSE_SECONDS", 60.0)
    goes_on = threading.Event()
    closed: SimpleQueue[bool] = SimpleQueue()
    unconnected._readers[0] = [reader(lambda: closed.put(goes_on.wait(5)), -math.inf) for _ in range(3)]
    unconnected._take_reader(0, 0).close()
    goes_on.set()
    assert [closed.get(timeout=10) for _ in range(3)] == [True] * 3
    unconnected.close()


@pytest.mark.parametrize(("watermarks", "error"), [(lambda *_: (20, 30), HubGapError), (refused, HubError)])
def test_who_reads_does_not_wait_until_one_is_closed_that_failed(unconnected, monkeypatch, watermarks, error):
    monkeypatch.setattr(kafka, "_CLOSE_SECONDS", 60.0)
    goes_on = threading.Event()
    closed: SimpleQueue[bool] = SimpleQueue()
    unconnected._readers[0] = [reader(lambda: closed.put(goes_on.wait(5)), watermarks=watermarks)]
    with pytest.raises(error):
        unconnected.receive(0, 7, 10)
    goes_on.set()
    assert closed.get(timeout=10)
    unconnected.close()
