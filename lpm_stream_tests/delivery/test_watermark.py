from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lpm_stream.delivery.watermark import Chunks, Watermark, pending_from_json
from lpm_stream.hub.message import Message, Received
from lpm_stream_tests.hub.messages import message

VERSIONS = 4


def chunk(version: int, attempt: str, number: int, last: int) -> Message:
    return message("A", version, attempt=attempt, chunk=number, last=number == last, rows=number + 1)


def received(messages: Iterable[Message], start: int = 1) -> list[Received]:
    return [Received(one, 0, number) for number, one in enumerate(messages, start)]


def stored(watermark: Watermark) -> Watermark:
    """As it comes back from a database."""
    return replace(watermark, pending=pending_from_json(watermark.pending_json()))


def complete_in(messages: Iterable[Message]) -> set[int]:
    """Versions of which some attempt is there as a whole."""
    found: dict[tuple[int, str], Chunks] = {}
    for one in messages:
        key = (one.version, one.attempt)
        found[key] = found.get(key, Chunks()).plus(one)
    return {version for (version, _), chunks in found.items() if chunks.complete}


@st.composite
def attempts_of(draw: st.DrawFn, publisher: str, first: int) -> list[Message]:
    """What one publisher sends: version by version, each version's chunks in any order, some twice."""
    messages = []
    for version in range(first, VERSIONS + 1):
        last = draw(st.integers(0, 3))
        chunks = [chunk(version, f"{publisher}{version}", number, last) for number in range(last + 1)]
        messages += draw(st.permutations(chunks))
        messages += draw(st.lists(st.sampled_from(chunks), max_size=1))
    return messages


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """What a hub holds in the end.

    Publishers die anywhere, or go on with what they have though they lost their lease; the last one finishes.
    """
    log: list[Message] = []
    cursor = 0
    stale: list[list[Message]] = []
    for publisher in "UVWX":
        mine = draw(attempts_of(publisher, cursor + 1))
        sent = mine if publisher == "X" else mine[: draw(st.integers(0, len(mine)))]
        rest = mine[len(sent) :]
        for one in sent:
            while stale and draw(st.integers(0, 2)) == 0:
                log.append(_next_of(draw(st.sampled_from(stale)), stale))
            log.append(one)
        if rest:
            stale.append(rest)
        cursor = draw(st.integers(cursor, _all_up_to(log)))
    while draw(st.booleans()) and stale:
        log.append(_next_of(draw(st.sampled_from(stale)), stale))
    return log


def _next_of(queue: list[Message], queues: list[list[Message]]) -> Message:
    one = queue.pop(0)
    if not queue:
        queues.remove(queue)
    return one


def _all_up_to(messages: list[Message]) -> int:
    complete = complete_in(messages)
    return next(version for version in range(VERSIONS + 1) if version + 1 not in complete)


@given(logs(), st.data())
def test_it_never_advances_early_and_never_sticks(log, data):
    watermark = Watermark(version=0)
    all_received = received(log)
    through = 0
    while through < len(log):
        start = data.draw(st.integers(0, through), label="from (earlier than through: after a crash)")
        end = data.draw(st.integers(through + 1, len(log)), label="to")
        before = watermark
        watermark = stored(watermark.after(all_received[start:end], 7))
        through = end
        seen = complete_in(log[:through])
        assert watermark.version == max(seen, default=0)
        assert set(range(1, watermark.version + 1)) <= seen
        assert watermark.version >= before.version
        assert watermark.sequence_number == through
        assert watermark.changes >= before.changes
        assert all(version > watermark.version for version, _ in watermark.pending)
    assert watermark.version == VERSIONS
    assert watermark.pending == {}


@given(logs())
def test_one_batch_or_many_make_no_difference(log):
    one_by_one = Watermark(version=0)
    for one in received(log):
        one_by_one = one_by_one.after([one], 7)
    assert one_by_one == Watermark(version=0).after(received(log), 7)


@given(logs())
def test_applying_everything_again_changes_nothing(log):
    once = Watermark(version=0).after(received(log), 7)
    assert once.after(received(log), 7) == once
    assert all(once.covers(one) for one in received(log))


def test_chunks_of_two_attempts_do_not_make_a_whole():
    halves = [chunk(1, "a", 0, 1), chunk(1, "b", 1, 1)]
    watermark = Watermark().after(received(halves), 7)
    assert watermark.version == -1
    assert watermark.after(received([chunk(1, "b", 0, 1)], 3), 7).version == 1


def test_what_a_message_changes():
    watermark = Watermark().after(received([chunk(5, "a", 0, 0)]), 7)
    assert watermark == Watermark(version=5, sequence_number=1, fence=7, changes=1)
    assert watermark.covers(received([chunk(5, "b", 0, 3)])[0])
    assert not watermark.covers(received([chunk(6, "a", 0, 0)])[0])


def test_changes_counts_a_chunk_once():
    twice = [chunk(1, "a", 0, 2), chunk(1, "a", 0, 2), chunk(1, "a", 1, 2)]
    watermark = Watermark().after(received(twice), 7)
    assert watermark.changes == 1 + 2
    assert watermark.after(received(twice), 7).changes == 1 + 2


def test_an_empty_last_chunk_completes():
    messages = [chunk(1, "a", 0, 1), replace(chunk(1, "a", 1, 1), rows=0, body=b"")]
    assert Watermark().after(received(messages), 7).version == 1
