"""The whole stream over each kind of hub: the drains, a company that is set aside, a hub that lost messages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lpm_stream.control import parking
from lpm_stream.delivery import sqlite
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream
from lpm_stream_tests.amqp.server import EventHubsServer
from lpm_stream_tests.delivery.test_drain import locked, path_of
from lpm_stream_tests.example import SPEC, append, assert_delivered, begun, deliver, orders, publish
from lpm_stream_tests.hub.places import HubPlace, event_hubs_place, kafka_place

COMPANIES = ["A", "B", "C", "Zürich 🚑"]


@pytest.fixture(params=["event_hubs", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubPlace]:
    if request.param == "kafka":
        yield kafka_place(request.getfixturevalue("broker"))
    else:
        with EventHubsServer(partitions=4) as server:
            yield event_hubs_place(server, tmp_path / "secret")


@pytest.fixture
def stream(place: HubPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    monkeypatch.setenv("LPM_STREAM_HUB_URL", place.url)
    monkeypatch.setenv("LPM_STREAM_POLL_SECONDS", "0.01")
    settings = Settings.load(tmp_path / "home")
    with begun(settings, COMPANIES) as opened:
        yield opened


def commit(stream: Stream, number: int) -> None:
    """Commits and publishes a row for every company."""
    append(stream.table, orders([f"{company} {number}" for company in COMPANIES], COMPANIES))
    publish(stream)


def test_what_is_committed_arrives(stream):
    for number in range(5):
        commit(stream, number)
    deliver(stream)
    assert_delivered(stream, COMPANIES)
    commit(stream, 5)
    deliver(stream)
    assert_delivered(stream, COMPANIES)


def test_a_company_that_was_set_aside_catches_up_with_its_own_reader(stream, monkeypatch):
    monkeypatch.setattr(sqlite, "_PRAGMAS", ("PRAGMA busy_timeout = 20", *sqlite._PRAGMAS[1:]))
    commit(stream, 0)
    deliver(stream)
    with locked(path_of(stream, "A")):
        for number in range(1, 4):
            commit(stream, number)
            deliver(stream)
        assert parking.read_parked(stream.store, SPEC.name).keys() == {"A"}
    stream.deliverer().drain(go_on=lambda: bool(parking.read_parked(stream.store, SPEC.name)))
    assert_delivered(stream, COMPANIES)


def test_messages_that_the_hub_has_lost_are_noticed(place, stream):
    commit(stream, 0)
    for partition in stream.hub.partitions():
        if end := stream.hub.end(partition):
            place.expire(partition, end)
    done = deliver(stream)
    assert any("no longer keeps" in problem for problem in done.problems)
    commit(stream, 1)
    deliver(stream)
    assert parking.read_parked(stream.store, SPEC.name).keys() == set(COMPANIES)
