"""What every hub has to do, whatever it is made of."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lpm_stream.errors import HubGapError
from lpm_stream.hub.message import Hub, Received
from lpm_stream_tests.amqp.server import EventHubsServer
from lpm_stream_tests.hub.messages import message
from lpm_stream_tests.hub.places import HubPlace, event_hubs_place, kafka_place, local_place

COMPANIES = ["A", "B", "C", "D", "E", "Zürich 🚑", "it's", "\U0001f691" * 450, "a/b?c#d;e=f\n\0"]


@pytest.fixture(params=["local", "event_hubs", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubPlace]:
    if request.param == "local":
        yield local_place(tmp_path / "hub")
    elif request.param == "kafka":
        yield kafka_place(request.getfixturevalue("broker"))
    else:
        with EventHubsServer(partitions=4) as server:
            yield event_hubs_place(server, tmp_path / "secret")


def everything(hub: Hub, partition: int, after: int = 0) -> list[Received]:
    """All that a partition holds behind `after`, as a drain reads it: until there is nothing more."""
    found: list[Received] = []
    while received := hub.receive(partition, found[-1].sequence_number if found else after, 7):
        found += received
    return found


def by_company(hub: Hub) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for partition in hub.partitions():
        for one in everything(hub, partition):
            found.setdefault(one.message.company, []).append(one.message.version)
    return found


def partition_of(hub: Hub, company: str) -> int:
    """Where a company's messages are."""
    [found] = [
        partition
        for partition in hub.partitions()
        if any(one.message.company == company for one in everything(hub, partition))
    ]
    return found


def test_each_company_keeps_its_order_and_its_partition(place):
    with place.opened() as hub:
        for version in range(0, 20, 2):
            hub.send([message(company, version) for company in COMPANIES])
            hub.send([message(company, version + 1) for company in reversed(COMPANIES)])
        assert by_company(hub) == {company: list(range(20)) for company in COMPANIES}
        assert len({partition_of(hub, company) for company in COMPANIES}) > 1


def test_sequence_numbers_begin_above_0_and_grow_to_the_end(place):
    with place.opened() as hub:
        hub.send([message(company, version) for version in range(5) for company in COMPANIES])
        for partition in hub.partitions():
            numbers = [one.sequence_number for one in everything(hub, partition)]
            assert numbers == sorted(set(numbers))
            assert all(number >= 1 for number in numbers)
            assert hub.end(partition) == max(numbers, default=0)


def test_a_message_comes_back_as_it_was_sent_also_after_reopening(place):
    with place.opened() as hub:
        sent = [
            message("it's", 2**53, body=bytes(range(256)), chunk=7, last=False, rows=0, attempt="é", epoch=2**40),
            message("\U0001f691" * 450, 0, body=b"", content_type="application/x-ndjson", previous=2**53 - 1),
            message("A", 1, body=b"b" * hub.max_body_bytes),
            message("\U0001f691" * 450, 1, feed="f" * 200, body=b"\0" * hub.max_body_bytes),
            message("a\0b", 1, fingerprint=""),
        ]
        hub.send(sent)
    with place.opened() as hub:
        found = [one.message for partition in hub.partitions() for one in everything(hub, partition)]
        assert len(found) == len(sent)
        for one in sent:
            assert one in found


def test_more_than_a_batch_holds_arrives_in_order(place):
    with place.opened() as hub:
        body = b"x" * (hub.max_body_bytes // 3)
        hub.send([message(company, version, body=body) for version in range(8) for company in ("A", "B")])
        assert by_company(hub) == {"A": list(range(8)), "B": list(range(8))}


def test_reading_goes_on_behind_what_was_read(place):
    with place.opened() as hub:
        assert [hub.end(partition) for partition in hub.partitions()] == [0] * len(hub.partitions())
        assert by_company(hub) == {}
        hub.send([message("A", version) for version in range(1, 6)])
        partition = partition_of(hub, "A")
        numbers = [one.sequence_number for one in everything(hub, partition)]
        for at, number in enumerate(numbers):
            rest = everything(hub, partition, after=number)
            assert [one.message.version for one in rest] == list(range(at + 2, 6))
        assert hub.receive(partition, numbers[-1], 3) == []
        hub.send([message("A", 6)])
        assert [one.message.version for one in everything(hub, partition, after=numbers[-1])] == [6]


def test_no_more_are_handed_out_than_were_asked_for(place):
    with place.opened() as hub:
        hub.send([message("A", version) for version in range(1, 6)])
        partition = partition_of(hub, "A")
        assert [one.message.version for one in hub.receive(partition, 0, 1)] == [1]
        assert 1 <= len(hub.receive(partition, 0, 3)) <= 3


def test_nothing_to_send_is_nothing(place):
    with place.opened() as hub:
        hub.send([])
        assert by_company(hub) == {}


def test_a_writer_goes_on_behind_what_others_have_sent(place):
    with place.opened() as hub, place.opened() as other:
        hub.send([message("A", 1)])
        other.send([message("A", 2)])
        hub.send([message("A", 3)])
        assert by_company(other) == {"A": [1, 2, 3]}


def test_many_read_at_once_from_places_of_their_own(place):
    with place.opened() as hub:
        hub.send([message("A", version) for version in range(1, 41)])
        partition = partition_of(hub, "A")
        numbers = [one.sequence_number for one in everything(hub, partition)]
        found: dict[int, list[int]] = {}

        def read(at: int) -> None:
            found[at] = [one.message.version for one in everything(hub, partition, after=numbers[at])]

        threads = [threading.Thread(target=read, args=(at,)) for at in range(0, 40, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {at: list(range(at + 2, 41)) for at in range(0, 40, 5)}


def test_a_reader_and_a_writer_at_the_same_time(place):
    with ExitStack() as stack:
        hub, writer = stack.enter_context(place.opened()), stack.enter_context(place.opened())

        def write() -> None:
            for version in range(1, 61):
                writer.send([message("A", version), message("B", version)])

        thread = threading.Thread(target=write)
        thread.start()
        after = dict.fromkeys(hub.partitions(), 0)
        seen: dict[str, list[int]] = {"A": [], "B": []}
        while sum(map(len, seen.values())) < 120:
            for partition in after:
                for one in hub.receive(partition, after[partition], 7):
                    seen[one.message.company].append(one.message.version)
                    after[partition] = one.sequence_number
        thread.join()
        assert seen == {"A": list(range(1, 61)), "B": list(range(1, 61))}


def test_what_retention_has_removed_is_a_gap(place):
    with place.opened() as hub:
        hub.send([message("A", version) for version in range(1, 6)])
        partition = partition_of(hub, "A")
        numbers = [one.sequence_number for one in everything(hub, partition)]
    place.expire(partition, numbers[2])
    with place.opened() as hub:
        for after in (0, numbers[0], numbers[1]):
            with pytest.raises(HubGapError, match="no longer keeps") as caught:
                hub.receive(partition, after, 10)
            assert caught.value.resume_after == numbers[2]
        assert [one.message.version for one in everything(hub, partition, after=numbers[2])] == [4, 5]


def test_a_gap_that_leaves_nothing_is_a_gap_too(place):
    with place.opened() as hub:
        hub.send([message("A", version) for version in range(1, 6)])
        partition = partition_of(hub, "A")
        end = hub.end(partition)
        place.expire(partition, end)
    with place.opened() as hub:
        assert hub.end(partition) == end
        with pytest.raises(HubGapError) as caught:
            hub.receive(partition, 1, 10)
        assert caught.value.resume_after == end
        assert hub.receive(partition, end, 10) == []
        hub.send([message("A", 6)])
        assert [one.message.version for one in everything(hub, partition, after=end)] == [6]


def test_what_expires_while_it_is_being_read_is_noticed(place):
    with place.opened() as hub:
        hub.send([message("A", version) for version in range(1, 6)])
        partition = partition_of(hub, "A")
        numbers = [one.sequence_number for one in everything(hub, partition)]
        assert hub.receive(partition, numbers[-1], 10) == []
        hub.send([message("A", 6)])
        place.expire(partition, numbers[-1])
        assert [one.message.version for one in everything(hub, partition, after=numbers[-1])] == [6]


def test_a_hub_that_was_created_anew_is_noticed(place):
    with place.opened() as hub:
        hub.send([message("A", version) for version in range(1, 4)])
        partition = partition_of(hub, "A")
        end = hub.end(partition)
    place.recreate()
    with place.opened() as hub:
        hub.send([message("A", 4)])
        with pytest.raises(HubGapError, match=r"replaced|created anew") as caught:
            hub.receive(partition, end, 10)
        assert caught.value.resume_after == 0
        assert [one.message.version for one in everything(hub, partition)] == [4]
