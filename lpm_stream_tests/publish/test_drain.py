import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable, write_deltalake

from lpm_stream.alerts import raised
from lpm_stream.control import leases, progress, quarantine, tables
from lpm_stream.control.registry import register
from lpm_stream.errors import HubError, LeaseLostError, SchemaError, SourceError
from lpm_stream.hub.message import Hub, Message
from lpm_stream.publish import drain as publish_drain
from lpm_stream.publish import pack
from lpm_stream.publish.drain import Published, Publisher
from lpm_stream.source import delta
from lpm_stream.stream import Stream
from lpm_stream_tests.example import SPEC, append, orders, publish

OTHER = "publish@elsewhere:1:1"


class Spy:
    """A hub that shows what is sent to it before it is stored."""

    def __init__(self, hub: Hub, look) -> None:
        self.max_body_bytes = hub.max_body_bytes
        self._hub = hub
        self._look = look

    def send(self, messages: Sequence[Message]) -> None:
        self._look(messages)
        self._hub.send(messages)


def publisher(stream: Stream, look) -> Publisher:
    spy: Hub = Spy(stream.hub, look)  # type: ignore[assignment] # publishing only sends
    return Publisher(stream.spec, stream.table, spy, stream.store)


def drained(one: Publisher) -> Published:
    return one.drain(poll_seconds=0.01, go_on=lambda: True, until_caught_up=True)


def sent(stream: Stream) -> list[Message]:
    return [
        one.message for partition in stream.hub.partitions() for one in stream.hub.receive(partition, 0, 1_000_000)
    ]


def cursor(stream: Stream) -> int:
    found = progress.read_cursor(stream.store, SPEC.name)
    return -1 if found is None else found.version


def versions(stream: Stream, company: str = "A") -> list[int]:
    return [message.version for message in sent(stream) if message.company == company]


def fail(_messages: Sequence[Message]) -> None:
    raise HubError("the hub is down")


def test_what_was_done_is_told(stream):
    append(stream.table, orders(["1", "2", "3", "4"], ["A", "B", "NEW", ""]))
    done = publish(stream)
    assert (done.version, done.newest_version, done.versions) == (1, 1, 2)
    assert (done.changes, done.messages, done.quarantined, done.standby) == (2, 2, 1, False)
    assert done.bytes == sum(len(message.body) for message in sent(stream))
    assert publish(stream).versions == 0


def test_a_large_commit_is_given_up_when_it_is_to_end_at_once(stream, monkeypatch):
    monkeypatch.setattr(delta, "_FRAME_ROWS", 1)  # so that it comes in several frames
    monkeypatch.setattr(publish_drain, "_SEND_BYTES", 1)  # and a part of it is sent before
    append(stream.table, orders(["1"], ["A"]))
    append(stream.table, orders([str(number) for number in range(20_000)], "A"))
    told = threading.Event()
    one = publisher(stream, lambda messages: told.set() if any(one.version == 2 for one in messages) else None)
    done = one.drain(poll_seconds=0.01, go_on=lambda: not told.is_set(), at_once=told.is_set)
    assert (done.version, cursor(stream)) == (1, 1)
    assert versions(stream)[-1] == 2
    assert not any(message.last for message in sent(stream) if message.version == 2)
    publish(stream)
    assert cursor(stream) == 2
    assert sum(message.last for message in sent(stream) if message.version == 2) == 1


def test_many_small_commits_behind(stream):
    table = DeltaTable(stream.table)
    for number in range(200):
        write_deltalake(table, orders([str(number)], "AB"[number % 2]).to_arrow(), mode="append")
    done = publish(stream)
    assert (done.version, done.versions, done.changes) == (200, 201, 200)
    assert versions(stream) == list(range(1, 201, 2))
    assert versions(stream, "B") == list(range(2, 201, 2))
    assert cursor(stream) == 200


def test_messages_carry_when_they_were_committed(stream):
    before = datetime.now(UTC)
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    [message] = sent(stream)
    assert before.replace(microsecond=0) <= message.committed_at <= datetime.now(UTC)


def test_a_second_publisher_stands_by(stream):
    append(stream.table, orders(["1"], "A"))
    lease = leases.acquire(stream.store, f"publish:{SPEC.name}", OTHER)
    assert lease is not None
    assert publish(stream).standby
    assert sent(stream) == []
    assert cursor(stream) == -1
    leases.release(stream.store, lease)
    assert not publish(stream).standby
    assert versions(stream) == [1]


def test_the_lease_is_given_back(stream):
    publish(stream)
    assert leases.holders(stream.store) == {}
    append(stream.table, orders(["1"], "A"))
    with pytest.raises(HubError):
        drained(publisher(stream, fail))
    assert leases.holders(stream.store) == {}


def test_a_publisher_that_lost_its_lease_does_not_move_the_cursor(stream):
    publish(stream)
    append(stream.table, orders(["1"], "A"))

    def steal(_messages: Sequence[Message]) -> None:
        with stream.store.write() as connection:
            connection.execute(tables.leases.update().values(expires_at=datetime(2000, 1, 1, tzinfo=UTC)))
        assert leases.acquire(stream.store, f"publish:{SPEC.name}", OTHER) is not None

    with pytest.raises(LeaseLostError):
        drained(publisher(stream, steal))
    assert cursor(stream) == 0
    assert leases.holders(stream.store) == {f"publish:{SPEC.name}": OTHER}


def test_a_large_commit_keeps_the_lease(stream, monkeypatch):
    monkeypatch.setattr(pack, "_CHUNK_ROWS", 2)
    monkeypatch.setattr(publish_drain, "_SEND_BYTES", 1)
    expiries = []

    def look(_messages: Sequence[Message]) -> None:
        with stream.store.read() as connection:
            expiries.append(connection.execute(sa.select(tables.leases.c.expires_at)).scalar())

    append(stream.table, orders([str(number) for number in range(10)], "A"))
    drained(publisher(stream, look))
    inside = expiries[:5]
    assert inside == sorted(set(inside))


def test_a_hub_that_fails_loses_nothing(stream):
    publish(stream)
    append(stream.table, orders(["1"], "A"))
    append(stream.table, orders(["2", "3"], ["A", ""]))
    with pytest.raises(HubError, match="the hub is down"):
        drained(publisher(stream, fail))
    assert cursor(stream) == 0
    assert quarantine.counts(stream.store, SPEC.name) == {}
    done = publish(stream)
    assert (done.version, done.quarantined) == (2, 1)
    assert versions(stream) == [1, 2]


def test_the_commits_before_one_that_does_not_fit_are_published(stream):
    for number in range(1, 4):
        append(stream.table, orders([str(number)], "A"))
    narrower = orders(["4"], "A").drop("note")
    write_deltalake(stream.table, narrower.to_arrow(), mode="overwrite", schema_mode="overwrite")
    append(stream.table, narrower.with_columns(id=pl.lit("5")))
    for _ in range(2):
        with pytest.raises(SchemaError, match="column note"):
            publish(stream)
        assert cursor(stream) == 3
        assert versions(stream) == [1, 2, 3]


def test_the_commits_before_one_that_cannot_be_read_are_published(stream, monkeypatch):
    """Of the one that cannot be read nothing is sent, though a part of it is good."""
    monkeypatch.setattr(delta, "_FRAME_ROWS", 1)
    monkeypatch.setattr(pack, "_CHUNK_ROWS", 2)
    append(stream.table, orders(["1"], "A"))
    [old] = DeltaTable(stream.table).file_uris()
    publish(stream)
    append(stream.table, orders(["2"], "A"))
    write_deltalake(stream.table, orders(["3", "4", "5"], "A").to_arrow(), mode="overwrite")
    Path(old).unlink()
    for _ in range(2):
        with pytest.raises(SourceError, match="version 3 of table"):
            publish(stream)
        assert cursor(stream) == 2
        assert versions(stream) == [1, 2]


def test_a_table_set_back_is_noticed(stream):
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    (Path(stream.table) / "_delta_log" / f"{1:020}.json").unlink()
    with pytest.raises(SourceError, match="version 0, but version 1 was published"):
        publish(stream)


def test_a_company_gets_what_is_committed_after_it_registers(stream):
    append(stream.table, orders(["1"], "NEW"))
    publish(stream)
    register(stream.store, "NEW")
    append(stream.table, orders(["2"], "NEW"))
    publish(stream)
    assert versions(stream, "NEW") == [2]


def test_new_commits_are_published_as_they_appear(stream):
    stop = threading.Event()
    seen = threading.Event()

    def look(messages: Sequence[Message]) -> None:
        if messages:
            seen.set()

    drain = threading.Thread(
        target=publisher(stream, look).drain,
        kwargs={"poll_seconds": 0.01, "go_on": lambda: not stop.is_set()},
    )
    drain.start()
    append(stream.table, orders(["1"], "A"))
    assert seen.wait(30)
    stop.set()
    drain.join()
    assert versions(stream) == [1]
    assert cursor(stream) == 1


def test_a_bad_row_of_any_kind_stops_nothing(stream):
    odd = orders(["1", "2", "3"], "A").with_columns(
        ordered_at=pl.Series([0, 253_402_300_800_000_000, 0]).cast(pl.Datetime("us", "UTC")),
        due=pl.Series([0, 0, -719_163], dtype=pl.Int32).cast(pl.Date),
    )
    append(stream.table, odd)
    assert publish(stream).quarantined == 2
    assert quarantine.counts(stream.store, SPEC.name) == {"A": 2}
    assert [message.rows for message in sent(stream)] == [1]


@pytest.mark.parametrize(("limit", "travelled"), [(5, 0), (50, 1)])
def test_rows_too_large_to_travel_count_towards_the_limit(stream, monkeypatch, limit, travelled):
    monkeypatch.setattr(type(stream.hub), "max_body_bytes", 1_000)
    strict = replace(stream, spec=SPEC.model_copy(update={"quarantine_rows_per_minute": limit}))
    noise = random.Random(1)
    long = ["".join(chr(noise.randint(33, 50_000)) for _ in range(1_000)) for _ in range(20)]
    rows = orders([str(number) for number in range(20)], "A").with_columns(note=pl.Series(long))
    append(stream.table, pl.concat([rows, orders(["x"], "A")]))
    publish(strict)
    assert quarantine.counts(stream.store, SPEC.name)["A"] == min(20, limit + 1)  # one stands for the rest
    messages = [one.message for part in stream.hub.partitions() for one in stream.hub.receive(part, 0, 100)]
    assert sum(one.last for one in messages) == travelled
    assert progress.read_published(stream.store, SPEC.name) == {"A": 1}


def stopped(stream: Stream) -> list[str]:
    return [cause.what for cause in raised.read_raised(stream.store, SPEC.name)]


def test_who_stands_by_says_nothing_of_a_table_that_it_cannot_open(stream):
    gone = replace(stream, settings=stream.settings.model_copy(update={"tables_url": "/nowhere"}))
    leases.acquire(stream.store, leases.lease_name("publish", SPEC.name), OTHER)
    assert publish(gone).standby
    assert stopped(stream) == []


def test_what_another_has_said_of_publishing_does_not_stand_while_it_goes_on(stream, monkeypatch):
    monkeypatch.setattr(publish_drain, "_TOLD_SECONDS", 0)
    append(stream.table, orders(["1"], "A"))

    def rounds() -> Iterator[bool]:
        while cursor(stream) != 1:
            yield True
        raised.publishing_stopped(stream.store, SPEC.name, SourceError("gone"))  # by one that had lost its lease
        yield True

    going = rounds()
    stream.publisher().drain(poll_seconds=0.01, go_on=lambda: next(going, False))
    assert stopped(stream) == []


def test_an_unexpected_error_stops_publishing_too_and_none_of_its_words_are_told(stream, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError("a row")

    append(stream.table, orders(["1"], "A"))
    with monkeypatch.context() as failing:
        failing.setattr(publish_drain, "messages_of", fail)
        with pytest.raises(MemoryError):
            publish(stream)
    [what] = stopped(stream)
    assert "unexpected MemoryError" in what
    assert "a row" not in what
    publish(stream)
    assert stopped(stream) == []


def test_who_has_lost_its_lease_does_not_say_that_publishing_has_stopped(stream):
    append(stream.table, orders(["1"], "A"))

    def steal(_messages: Sequence[Message]) -> None:
        with stream.store.write() as connection:
            connection.execute(tables.leases.update().values(holder=OTHER, fence=tables.leases.c.fence + 1))

    with pytest.raises(LeaseLostError):
        drained(publisher(stream, steal))
    assert stopped(stream) == []
