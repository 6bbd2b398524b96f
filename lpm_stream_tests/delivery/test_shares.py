"""Deliverers that split the partitions of a hub."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka.admin import AdminClient

from lpm_stream.control import leases, parking, progress, shares
from lpm_stream.control.registry import register
from lpm_stream.control.tables import leases as table
from lpm_stream.delivery.drain import Delivery
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream
from lpm_stream_tests.example import (
    SPEC,
    append,
    assert_delivered,
    begun,
    deliver,
    orders,
    publish,
    undelivered,
)
from lpm_stream_tests.kafka.broker import KafkaBroker

OTHER = "deliver@elsewhere:1:1"
COMPANIES = [f"company {number}" for number in range(12)]


@pytest.fixture
def crowd(stream: Stream) -> Stream:
    """A stream with companies in every partition."""
    for company in COMPANIES:
        register(stream.store, company)
    assert {stream.hub.partition_of(company) for company in COMPANIES} == set(stream.hub.partitions())
    return stream


def commit(stream: Stream, key: str) -> None:
    """Commits and publishes a row for each company."""
    append(stream.table, orders([f"{key} {company}" for company in COMPANIES], COMPANIES))
    publish(stream)


def deliver_share(stream: Stream) -> Delivery:
    return stream.deliverer().drain(go_on=lambda: True, until_caught_up=True, shared=True)


def split_with_another(stream: Stream) -> set[str]:
    """Another deliverer, on another machine, has half of the partitions; returns the companies in the others."""
    every = stream.hub.partitions()
    shares.take(stream.store, SPEC.name, OTHER, every, alone=False)
    assert deliver_share(stream).standby
    share = shares.take(stream.store, SPEC.name, OTHER, every, alone=False)
    assert len(share.partitions) == len(every) / 2
    with stream.store.write() as connection:
        now = datetime.now(UTC)
        held = (table.c.holder == OTHER) & (table.c.expires_at > now)
        connection.execute(table.update().where(held).values(expires_at=now + timedelta(minutes=1)))
    return {company for company in COMPANIES if stream.hub.partition_of(company) not in share.partitions}


def delivered(stream: Stream) -> set[str]:
    return set(progress.read_deliveries(stream.store, SPEC.name))


def test_each_delivers_its_share_and_misses_nothing_of_the_others(crowd: Stream) -> None:
    mine = split_with_another(crowd)
    commit(crowd, "1")
    done = deliver_share(crowd)
    assert set(done.companies) == delivered(crowd) == mine
    assert_delivered(crowd, sorted(mine))
    assert parking.read_parked(crowd.store, SPEC.name) == {}  # nobody else's changes are taken for lost
    assert leases.at_work(leases.holders(crowd.store), "deliver", SPEC.name) == OTHER
    assert deliver(crowd).standby


@pytest.mark.parametrize("is_known", [True, False])
def test_a_parked_company_belongs_to_whoever_has_its_partition(crowd: Stream, is_known: bool) -> None:
    mine = split_with_another(crowd)
    commit(crowd, "1")
    with crowd.store.write() as connection:
        for company in COMPANIES:
            partition = crowd.hub.partition_of(company) if is_known else -1
            state = parking.park(company, partition, 1, datetime.now(UTC), "by hand")
            parking.write_parked(connection, SPEC.name, company, state)
    for company in COMPANIES:
        parking.try_now(crowd.store, SPEC.name, company)
    deliver_share(crowd)
    assert delivered(crowd) == mine
    still = parking.read_parked(crowd.store, SPEC.name)
    assert set(COMPANIES) - mine <= set(still)
    assert {still[company].attempts for company in set(COMPANIES) - mine} == {1}


@contextmanager
def delivering(stream: Stream) -> Iterator[None]:
    """A deliverer with connections of its own, in a thread."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with open_stream(stream.settings, SPEC) as own:
                while not stop.is_set():
                    own.deliverer().drain(go_on=lambda: not stop.is_set(), shared=True)
                    stop.wait(0.05)
        except BaseException as error:  # noqa: BLE001 - the test says what it thinks of it
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_nothing_is_lost_while_they_come_and_go(crowd: Stream) -> None:
    with delivering(crowd), ExitStack() as others:
        for number in range(6):
            commit(crowd, str(number))
            if number in {1, 2}:
                others.enter_context(delivering(crowd))
                wait_until_split(crowd, number + 1)
            elif number == 4:
                others.close()
                wait_until_split(crowd, 1)
        wait_until_delivered(crowd)
    assert_all_well(crowd)


@pytest.fixture
def on_kafka(settings: Settings, broker: KafkaBroker) -> Iterator[Stream]:
    """As `crowd`, with a topic for a hub."""
    there = settings.model_copy(update={"hub_url": f"kafka://localhost:{broker.port}/shares"})
    with begun(there, COMPANIES) as opened:
        yield opened


def test_a_consumer_group_says_who_delivers_what(on_kafka: Stream, broker: KafkaBroker) -> None:
    group = f"lpm_stream.shares.{SPEC.name}"

    def assigned() -> set[frozenset[int]]:
        admin = AdminClient({"bootstrap.servers": f"localhost:{broker.port}", "log_level": 0})
        members = admin.describe_consumer_groups([group])[group].result(10).members
        return {frozenset(place.partition for place in one.assignment.topic_partitions) for one in members}

    def held() -> set[frozenset[int]]:
        by_holder = defaultdict(set)
        for name, holder in leases.holders(on_kafka.store).items():
            if name.startswith(f"deliver:{SPEC.name}:"):
                by_holder[holder].add(int(name.rpartition(":")[2]))
        return set(map(frozenset, by_holder.values()))

    with delivering(on_kafka), ExitStack() as others:
        for number in range(4):
            commit(on_kafka, str(number))
            if number in {1, 2}:
                others.enter_context(delivering(on_kafka))
                wait_until_split(on_kafka, number + 1)
                end = time.monotonic() + 60
                while held() != assigned():
                    assert time.monotonic() < end, (held(), assigned())
                    time.sleep(0.1)
        others.close()
        wait_until_split(on_kafka, 1)
        wait_until_delivered(on_kafka)
    assert_all_well(on_kafka)


def wait_until_delivered(stream: Stream) -> None:
    end = time.monotonic() + 60
    while undelivered(stream):
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_all_well(stream: Stream) -> None:
    """Everybody has everything, and nobody is at work any more."""
    assert_delivered(stream, COMPANIES)
    assert parking.read_parked(stream.store, SPEC.name) == {}
    assert leases.holders(stream.store) == {}


def wait_until_split(stream: Stream, deliverers: int) -> None:
    """Waits until so many have all partitions between them, each some."""
    end = time.monotonic() + 60
    while True:
        prefix = f"deliver:{SPEC.name}:"
        held = [who for name, who in leases.holders(stream.store).items() if name.startswith(prefix)]
        if (len(held), len(set(held))) == (len(stream.hub.partitions()), deliverers):
            return
        assert time.monotonic() < end, held
        time.sleep(0.02)
