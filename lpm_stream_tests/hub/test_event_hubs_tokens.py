"""The Event Hubs client while its tokens expire: hours pass on the clocks of the server, the SDK and the login.

The SDK looks at a connection's token whenever it works on it, and puts a new one once a tenth of its life or less
is left. A link that is received from is worked on all the time. A producer, the connection that is asked about
partitions and a reader that is full are not: their tokens may expire, and their links are gone then.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import azure.identity
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.eventhub import _client_base
from azure.eventhub._pyamqp import cbs

from lpm_stream.errors import HubError
from lpm_stream.hub import event_hubs, event_hubs_reader
from lpm_stream.hub.event_hubs import EventHubsHub
from lpm_stream.hub.event_hubs_client import Access, access
from lpm_stream_tests.amqp.server import EventHubsServer
from lpm_stream_tests.hub.follow import follow
from lpm_stream_tests.hub.messages import message

COMPANIES = ["A", "B", "C", "D"]
HOUR = 3_600  # the life of a token


@dataclass
class Credential:
    """Stands in for a login at Entra: gives tokens that live for an hour.

    Attributes:
        failures: how often it will fail.
    """

    now: Callable[[], float]
    failures: int = 0

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        """A new one."""
        if self.failures:
            self.failures -= 1
            raise ClientAuthenticationError("no login was found\nTried:\n  everything")
        return AccessToken("header.claims.signature", int(self.now()) + HOUR)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EventHubsServer]:
    with EventHubsServer(partitions=2) as running:
        monkeypatch.setattr(cbs, "utc_now", lambda: datetime.fromtimestamp(running.now(), UTC))
        monkeypatch.setattr(_client_base, "time", SimpleNamespace(time=running.now, sleep=time.sleep))
        yield running


@pytest.fixture
def credential(server: EventHubsServer) -> Credential:
    return Credential(server.now)


@pytest.fixture
def place(
    server: EventHubsServer,
    credential: Credential,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Access:
    if getattr(request, "param", "") == "connection string":
        monkeypatch.setenv("SECRET", server.connection_string)
        return access("env:SECRET")
    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", lambda: credential)
    found = access(f"//localhost:{server.port}/{server.name}")
    return replace(found, connection=found.connection | {"use_tls": False})


@pytest.fixture
def hub(place: Access, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventHubsHub]:
    monkeypatch.setattr(event_hubs, "_PATIENCE_SECONDS", 20.0)  # a new connection may take long on a busy machine
    with closing(EventHubsHub(place)) as opened:
        yield opened


def wait_until(look: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not look():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def tokens(server: EventHubsServer) -> Counter[str]:
    """How many tokens were put, by connection."""
    return Counter(number for what, number in server.log if what == "put-token")


def renewed_since(server: EventHubsServer, before: int) -> bool:
    return tokens(server).total() > before


def received(hub: EventHubsHub, partition: int, after: int = 0) -> list[int]:
    """The versions behind one of our sequence numbers, as they come."""
    found: list[int] = []
    while more := hub.receive(partition, after + len(found), 50):
        found += [one.message.version for one in more]
    return found


def an_hour_passes(server: EventHubsServer) -> None:
    server.let_pass(HOUR + 60)


@pytest.fixture(params=[an_hour_passes, EventHubsServer.revoke_all])
def lapse(request: pytest.FixtureRequest) -> Callable[[EventHubsServer], None]:
    """What invalidates the tokens: the SDK may know, or only the server."""
    chosen: Callable[[EventHubsServer], None] = request.param
    return chosen


@pytest.mark.parametrize("place", ["login", "connection string"], indirect=True)
def test_tokens_are_renewed_on_the_connections_that_are_in_use(server, hub):
    partition = hub.partition_of("A")
    rounds, found = 4, list[int]()
    for at in range(rounds):
        hub.send([message("A", version) for version in range(at * 5, at * 5 + 5)])
        found += received(hub, partition, len(found))
        assert hub.end(partition) == len(found)
        before = tokens(server).total()
        server.let_pass(HOUR - 300)
        wait_until(partial(renewed_since, server, before))  # the reader's, of its own accord
    assert found == list(range(rounds * 5))
    renewed = [count for count in tokens(server).values() if count >= rounds]
    assert sorted(renewed) == [rounds, rounds, rounds + 1]  # the management's, the producer's and the reader's


@pytest.mark.parametrize("condition", ["amqp:unauthorized-access", "amqp:link:detach-forced"])
def test_after_idling_past_the_life_of_a_token_all_goes_on(server, hub, lapse, condition):
    server.lapse_condition = condition
    hub.send([message("A", version) for version in range(1, 4)])
    partition = hub.partition_of("A")
    assert received(hub, partition) == [1, 2, 3]
    connections = len(tokens(server))
    lapse(server)
    assert hub.end(partition) == 3
    assert received(hub, partition, after=3) == []
    lapse(server)
    hub.send([message("A", version) for version in range(4, 7)])
    lapse(server)
    assert received(hub, partition, after=3) == [4, 5, 6]
    assert received(hub, partition) == [1, 2, 3, 4, 5, 6]
    assert len(tokens(server)) >= connections + 3  # for the management, the producer and the reader


def test_a_reader_that_is_full_while_its_token_expires_goes_on_when_there_is_room(server, hub, monkeypatch):
    monkeypatch.setattr(event_hubs, "_PREFETCH_BYTES", 1_600)
    hub.send([message("A", version, body=b"x" * 60) for version in range(1, 21)])
    partition = hub.partition_of("A")
    assert [one.message.version for one in hub.receive(partition, 0, 1)] == [1]
    [reader] = hub._readers[partition]
    wait_until(lambda: reader._is_full)
    an_hour_passes(server)
    assert received(hub, partition, after=1) == list(range(2, 21))


def test_under_traffic_with_tokens_that_expire_nothing_is_lost_or_overtaken(server, hub, lapse):
    rounds = 40

    def write() -> None:
        for at in range(rounds):
            if at % 20 == 5:
                lapse(server)
            if at % 20 == 15:
                server.sends.append("lapse")
            hub.send([message(company, at) for company in COMPANIES])

    writer = threading.Thread(target=write)
    writer.start()
    found = follow(hub, COMPANIES, rounds)
    writer.join()
    assert found == {company: list(range(rounds)) for company in COMPANIES}


# A login that fails


due = pytest.mark.parametrize("seconds", [HOUR - 300, HOUR + 60])  # for renewal; expired


@due
def test_a_producer_asks_again_where_the_login_failed(server, hub, credential, seconds):
    hub.send([message("A", 1)])
    server.let_pass(seconds)
    credential.failures = 1
    hub.send([message("A", 2)])
    assert credential.failures == 0
    assert received(hub, hub.partition_of("A")) == [1, 2]


@due
def test_a_reader_asks_again_where_the_login_failed(server, hub, credential, seconds):
    hub.send([message("A", 1)])
    partition = hub.partition_of("A")
    assert received(hub, partition) == [1]
    credential.failures = 1
    server.let_pass(seconds)
    wait_until(lambda: credential.failures == 0)
    hub.send([message("A", 2)])
    assert received(hub, partition, after=1) == [2]


def test_a_question_is_asked_again_where_the_login_failed(server, hub, credential):
    server.let_pass(HOUR - 300)
    credential.failures = 1
    assert hub.end(0) == 0
    assert credential.failures == 0


def test_no_login_is_one_line(place, credential):
    credential.failures = 100
    with pytest.raises(HubError, match=r"^event hub tdr does not answer: no login was found \(") as caught:
        EventHubsHub(place)
    assert "\n" not in str(caught.value)


# Rights that are gone for a while


def test_a_reader_whose_token_is_refused_is_an_error_not_an_empty_partition(server, hub, monkeypatch):
    monkeypatch.setattr(event_hubs_reader, "_GIVE_UP_SECONDS", 0.5)
    hub.send([message("A", version) for version in (1, 2)])
    partition = hub.partition_of("A")
    assert received(hub, partition, after=1) == [2]
    server.token_status = 401
    an_hour_passes(server)
    with pytest.raises(HubError, match="CBS Token authentication failed"):
        received(hub, partition)
    server.token_status = 202
    assert received(hub, partition) == [1, 2]


def test_a_producer_whose_token_is_refused_is_an_error_and_sends_once_it_is_taken_again(server, hub):
    hub.send([message("A", 1)])
    server.token_status = 401
    an_hour_passes(server)
    with pytest.raises(HubError, match="does not take messages: CBS Token authentication failed"):
        hub.send([message("A", 2)])
    server.token_status = 202
    hub.send([message("A", 2)])
    assert received(hub, hub.partition_of("A")) == [1, 2]
