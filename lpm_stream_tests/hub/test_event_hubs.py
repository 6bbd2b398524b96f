"""The Event Hubs client against a server that fails on a script."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lpm_stream.errors import HubError, HubGapError, LpmStreamError
from lpm_stream.hub import event_hubs, event_hubs_client, event_hubs_reader
from lpm_stream.hub.event_hubs import EventHubsHub
from lpm_stream.hub.event_hubs_client import access
from lpm_stream.hub.message import Received
from lpm_stream.settings import Settings
from lpm_stream.stream import open_hub
from lpm_stream_tests.amqp.hub import Partition
from lpm_stream_tests.amqp.server import EventHubsServer
from lpm_stream_tests.hub.follow import follow
from lpm_stream_tests.hub.messages import message

COMPANIES = ["A", "B", "C", "D"]


@pytest.fixture
def server() -> Iterator[EventHubsServer]:
    with EventHubsServer(partitions=2) as running:
        yield running


@pytest.fixture
def hub(server: EventHubsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventHubsHub]:
    monkeypatch.setenv("SECRET", server.connection_string)
    with closing(EventHubsHub(access("env:SECRET"))) as opened:
        yield opened


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that let a test see them reached."""
    monkeypatch.setattr(event_hubs, "_SEND_SECONDS", 1.0)
    monkeypatch.setattr(event_hubs, "_CALL_SECONDS", 3.0)
    monkeypatch.setattr(event_hubs, "_OPEN_SECONDS", 2.0)
    monkeypatch.setattr(event_hubs, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(event_hubs_client, "_ASK_SECONDS", 1.0)
    monkeypatch.setattr(event_hubs_client, "_CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(event_hubs_reader, "_OPEN_SECONDS", 0.5)
    monkeypatch.setattr(event_hubs_reader, "_GIVE_UP_SECONDS", 0.5)


def received(hub: EventHubsHub, partition: int, after: int = 0) -> list[Received]:
    found: list[Received] = []
    while more := hub.receive(partition, found[-1].sequence_number if found else after, 50):
        found += more
    return found


def versions(hub: EventHubsHub, company: str) -> list[int]:
    """As they were stored, with whatever came twice."""
    ones = [one for partition in hub.partitions() for one in received(hub, partition)]
    return [one.message.version for one in ones if one.message.company == company]


def first_seen(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


# Sending


def test_companies_share_batches_and_each_event_has_its_partition_key(server, hub):
    hub.send([message(company, version) for version in range(10) for company in COMPANIES])
    events = [event for partition in server.partitions.values() for event in partition.events]
    assert {event.key for event in events} == set(COMPANIES)
    sends = [address for what, address in server.log if what == "send" and "/Partitions/" in address]
    assert len(sends) <= len(server.partitions)


# From the tests of the SDK for .NET (PartitionResolverTests), whose code is a port of the service's. The hashes:
# -15263, 30562, -22341, -6503, 15372.
HASHED = ["7", "131", "FWfAT", "sOdeEAsyQoEuEFPGerWO", "!c*_!I@1^c"]


def test_companies_go_where_event_hubs_itself_would_send_their_partition_key(monkeypatch):
    """Its remainder is that of C#, of the absolute value; Python's would be another for negative hashes."""
    with EventHubsServer(partitions=4) as server:
        monkeypatch.setenv("SECRET", server.connection_string)
        with closing(EventHubsHub(access("env:SECRET"))) as hub:
            found = {key: hub.partition_of(key) for key in HASHED}
    assert found == {"7": 3, "131": 2, "FWfAT": 1, "sOdeEAsyQoEuEFPGerWO": 3, "!c*_!I@1^c": 0}


def test_a_company_too_long_for_a_partition_key_keeps_its_order(server, hub):
    company = "\U0001f691" * 450
    hub.send([message(company, version) for version in range(5)])
    assert versions(hub, company) == list(range(5))
    [key] = {event.key for partition in server.partitions.values() for event in partition.events}
    assert key is not None
    assert len(key) <= 128


@pytest.mark.parametrize("fault", ["busy", "cut", "detach"])
@pytest.mark.parametrize("times", [1, 3])
def test_what_passes_is_sent_again_without_loss_or_overtaking(server, hub, fault, times):
    hub.send([message(company, 0) for company in COMPANIES])
    server.sends.extend([fault] * times)
    for version in range(1, 6):
        hub.send([message(company, version) for company in COMPANIES])
    for company in COMPANIES:
        assert first_seen(versions(hub, company)) == list(range(6))


def test_a_batch_that_was_stored_but_not_confirmed_comes_twice_and_in_order(server, hub):
    server.sends.append("cut after storing")
    hub.send([message("A", version) for version in range(3)])
    assert first_seen(versions(hub, "A")) == [0, 1, 2]


def test_a_hub_that_stays_busy_is_an_error_and_nothing_overtakes(server, hub, hurried):
    hub.send([message("A", 1)])
    server.sends.extend(["ok"] + ["busy"] * 1_000)
    body = b"x" * (hub.max_body_bytes * 2 // 3)  # one fills a batch
    with pytest.raises(HubError, match="does not take messages: throttled"):
        hub.send([message("A", version, body=body) for version in range(2, 6)])
    server.sends.clear()
    stored = versions(hub, "A")
    assert stored == [1, 2]
    hub.send([message("A", version) for version in range(2, 6)])
    assert versions(hub, "A") == [1, 2, 2, 3, 4, 5]


def test_a_message_over_the_limit_is_refused_and_nothing_overtakes_it(server, hub):
    big = hub.max_body_bytes + event_hubs._MARGIN_BYTES
    with pytest.raises(HubError, match=r"version 2 of company 'A': .* is larger"):
        hub.send([message("A", 1), message("A", 2, body=b"x" * big), message("A", 3)])
    assert versions(hub, "A") in ([], [1])


def test_a_hub_that_lowers_its_limit_is_an_error_at_once(server, hub):
    hub.send([message("A", 1)])
    server.max_message_bytes = 10_000
    with pytest.raises(HubError, match="too large"):
        hub.send([message("A", 2, body=b"x" * 20_000)])
    assert versions(hub, "A") == [1]


def test_a_hub_that_never_confirms_is_an_error_not_a_hang(server, hub, hurried):
    hub.send([message("A", 1)])
    server.is_silent = True
    with pytest.raises(HubError):
        hub.send([message("A", 2)])
    server.is_silent = False
    server.disconnect_all()
    hub.send([message("A", 2)])
    assert first_seen(versions(hub, "A")) == [1, 2]


def test_a_hub_that_is_down_for_a_while(server, hub):
    hub.send([message("A", 1)])
    server.stop()
    again = threading.Timer(1.5, server.start)
    again.start()
    hub.send([message("A", 2)])
    again.join()
    assert first_seen(versions(hub, "A")) == [1, 2]


def test_under_traffic_with_forced_disconnects_nothing_is_lost_or_overtaken(server, hub):
    rounds = 200
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(1.5):
            server.disconnect_all()

    def write() -> None:
        for version in range(rounds):
            hub.send([message(company, version) for company in COMPANIES])

    threads = [threading.Thread(target=disturb), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    found = follow(hub, COMPANIES, rounds)
    done.set()
    for thread in threads:
        thread.join()
    assert found == {company: list(range(rounds)) for company in COMPANIES}


# Receiving


@pytest.mark.parametrize("break_", [EventHubsServer.disconnect_all, EventHubsServer.detach_all])
def test_a_reader_goes_on_behind_what_it_read_when_its_link_breaks(server, hub, break_):
    hub.send([message("A", version) for version in range(1, 4)])
    partition = hub.partition_of("A")
    assert [one.message.version for one in received(hub, partition)] == [1, 2, 3]
    break_(server)
    hub.send([message("A", version) for version in range(4, 7)])
    assert [one.message.version for one in received(hub, partition, after=3)] == [4, 5, 6]


@pytest.mark.parametrize("fault", ["refuse", "redirect", "cut"])
def test_a_link_that_is_not_opened_at_first_is_opened_again(server, hub, fault):
    hub.send([message("A", 1)])
    server.attaches.extend([fault, fault])
    assert versions(hub, "A") == [1]


def test_connections_that_break_after_every_few_events_lose_nothing(server, hub):
    hub.send([message("A", version) for version in range(30)])
    server.deliver_at_most.extend([3, 1, 0, 5, 2])
    assert follow(hub, ["A"], 30) == {"A": list(range(30))}


def test_a_link_that_is_never_opened_is_an_error_not_an_empty_partition(server, hub, hurried):
    hub.send([message("A", 1)])
    server.attaches.extend(["silent"] * 100)
    with pytest.raises(HubError, match=r"not opened|nothing came"):
        versions(hub, "A")


def test_a_reader_whose_connection_never_says_anything_is_replaced(server, hub, hurried, monkeypatch):
    monkeypatch.setattr(event_hubs_reader, "_STUCK_SECONDS", 2.0)
    hub.send([message("A", 1)])
    partition = hub.partition_of("A")
    server.connects.append("silent")
    for _ in range(20):
        with suppress(HubError):
            assert [one.message.version for one in received(hub, partition)] == [1]
            return
    pytest.fail("it stays with the reader that hangs")


def test_a_hub_that_has_gone_silent_is_an_error_not_an_empty_partition(server, hub, hurried):
    hub.send([message("A", 1)])
    server.is_silent = True
    with pytest.raises(HubError, match="does not answer"):
        versions(hub, "A")
    server.is_silent = False
    server.disconnect_all()
    assert versions(hub, "A") == [1]


def test_what_waits_to_be_taken_is_bounded_in_bytes(server, hub, monkeypatch):
    monkeypatch.setattr(event_hubs, "_PREFETCH_BYTES", 16_000_000)
    body = b"x" * 900_000
    hub.send([message("A", version, body=body) for version in range(1, 21)])
    partition = hub.partition_of("A")
    [first] = hub.receive(partition, 0, 1)
    [reader] = hub._readers[partition]
    share = 16_000_000 // (2 * event_hubs._READERS)
    taken = [first.message.version]
    while len(taken) < 20:
        assert reader._waiting_bytes <= share
        taken += [one.message.version for one in hub.receive(partition, taken[-1], 1)]
    assert taken == list(range(1, 21))


def test_an_event_of_another_program_is_named_and_passed_by(server, hub):
    hub.send([message("A", 1)])
    partition = hub.partition_of("A")
    [event] = server.partitions[str(partition)].events
    kept: Partition = server.partitions[str(partition)]
    kept.events.append(type(event)(1, 999, event.enqueued_ms, None, b"\x00\x53\x75\xa0\x03abc"))
    kept.next_number = 2
    hub.send([message("A", 2)])
    assert [one.message.version for one in hub.receive(partition, 0, 1)] == [1]
    with pytest.raises(HubGapError, match="message 2 is not one of ours") as caught:
        received(hub, partition, after=1)
    assert caught.value.resume_after == 2
    assert [one.message.version for one in received(hub, partition, after=2)] == [2]


def test_readers_that_come_and_go_do_not_pile_up(server, hub):
    hub.send([message("A", version) for version in range(1, 21)])
    partition = hub.partition_of("A")
    for after in range(15):
        assert hub.receive(partition, after, 1)[0].message.version == after + 1
        assert hub.receive(partition, 14 - after, 1)[0].message.version == 15 - after
    assert len(hub._readers[partition]) <= event_hubs._READERS


@pytest.mark.parametrize("prefetch_bytes", [128_000_000, pytest.param(1_600, id="full")])
def test_readers_that_nobody_uses_any_more_give_their_links_back(server, hub, monkeypatch, prefetch_bytes):
    """As of a partition that another relay has now: Event Hubs allows five links of all together."""
    monkeypatch.setattr(event_hubs, "_PREFETCH_BYTES", prefetch_bytes)
    hub.send([message("A", version, body=b"x" * 60) for version in range(1, 21)])
    partition = hub.partition_of("A")
    assert [one.message.version for one in hub.receive(partition, 0, 1)] == [1]
    [reader] = hub._readers[partition]
    with monkeypatch.context() as forgetful:
        forgetful.setattr(event_hubs_reader, "FORGET_SECONDS", 0.1)
        reader._thread.join(10)
    assert not reader.is_at_work
    assert [one.message.version for one in received(hub, partition, after=1)] == list(range(2, 21))


def test_a_reader_that_could_not_begin_takes_no_room(server, hub, monkeypatch):
    hub.send([message("A", 1)])
    partition = hub.partition_of("A")
    with monkeypatch.context() as failing:
        failing.setattr(EventHubsHub, "_new_reader", raise_no_thread)
        for _ in range(event_hubs._READERS):
            with pytest.raises(RuntimeError):
                hub.receive(partition, 0, 1)
    assert [one.message.version for one in hub.receive(partition, 0, 1)] == [1]


def raise_no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_many_at_once_do_not_take_more_readers_than_event_hubs_allows(server, hub):
    hub.send([message("A", version) for version in range(1, 41)])
    partition = hub.partition_of("A")
    found: list[int] = []
    threads = [
        threading.Thread(
            target=lambda after=after: found.extend(one.message.version for one in received(hub, partition, after))
        )
        for after in range(0, 40, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(version for after in range(0, 40, 4) for version in range(after + 1, 41))
    assert "refused" not in {what for what, _ in server.log}


def test_readers_that_do_not_end_are_not_waited_for_one_after_the_other(hub, monkeypatch):
    monkeypatch.setattr(event_hubs, "_CLOSE_SECONDS", 0.1)
    waits: list[float] = []

    def close(wait_seconds: float = 0) -> None:
        waits.append(wait_seconds)
        time.sleep(wait_seconds)

    stuck: Any = SimpleNamespace(close=close)
    hub._readers[0] = [stuck] * 4
    hub.close()
    assert 0 < sum(waits) < 0.2


# Opening


def test_a_wrong_key_is_one_line_without_the_secret(server, monkeypatch):
    server.token_status = 401
    monkeypatch.setenv("SECRET", server.connection_string)
    with pytest.raises(HubError, match="does not answer") as caught:
        open_hub(Settings(hub_url="eventhubs:env:SECRET"))
    assert "c2VjcmV0" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_exist_is_said(server, monkeypatch):
    monkeypatch.setenv("SECRET", server.connection_string)
    with pytest.raises(HubError, match="404"):
        open_hub(Settings(hub_url="eventhubs:env:SECRET?hub=other"))


def test_a_server_that_is_not_there_is_said(server, monkeypatch):
    monkeypatch.setenv("SECRET", server.connection_string)
    server.stop()
    with pytest.raises(HubError, match="refused"):
        open_hub(Settings(hub_url="eventhubs:env:SECRET"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("eventhubs:Endpoint=sb://x;SharedAccessKey=c2VjcmV0", "by reference"),
        ("eventhubs:env:NOT_SET", "NOT_SET is not set"),
        ("eventhubs:file:/does/not/exist", "cannot be read"),
        ("eventhubs:env:SECRET?group=x", "not group"),
        ("eventhubs:env:SECRET", "malformed"),
        ("eventhubs://namespace.servicebus.windows.net", "eventhubs://NAMESPACE/HUB"),
        ("pulsar://host", "is not supported"),
    ],
)
def test_a_url_that_says_too_little_or_too_much(url, says, monkeypatch):
    monkeypatch.setenv("SECRET", "nonsense c2VjcmV0")
    with pytest.raises(LpmStreamError, match=says) as caught:
        open_hub(Settings(hub_url=url))
    assert "c2VjcmV0" not in str(caught.value)


def test_credentials_of_the_machine_are_used_where_there_is_no_connection_string():
    found = access("//ns.servicebus.windows.net/tdr?consumer_group=lpm")
    assert found.consumer_group == "lpm"
    assert found.connection["fully_qualified_namespace"] == "ns.servicebus.windows.net"
    assert found.connection["eventhub_name"] == "tdr"
    assert type(found.connection["credential"]).__name__ == "DefaultAzureCredential"
    assert "credential" not in repr(found)


def test_a_secret_in_a_file(server, tmp_path: Path):
    (tmp_path / "secret").write_text(f"{server.connection_string}\n")
    with closing(open_hub(Settings(hub_url=f"eventhubs:file:{tmp_path / 'secret'}"))) as opened:
        assert list(opened.partitions()) == [0, 1]


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("eventhubs:env:SECRET", "azure.eventhub", "event-hubs"),
        ("kafka://localhost/tdr", "confluent_kafka", "kafka"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(url, package, extra, monkeypatch):
    for name in [
        name for name in sys.modules if name.startswith(("lpm_stream.hub.event_hubs", "lpm_stream.hub.kafka"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LpmStreamError, match=rf"{package} is missing .*: pip install 'lpm-stream\[{extra}\]'"):
        open_hub(Settings(hub_url=url))
