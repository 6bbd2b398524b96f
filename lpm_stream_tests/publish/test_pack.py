import random
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpm_stream.feed.schema import CHANGE_TYPE, contract_schema
from lpm_stream.hub.codec import CONTENT_TYPES, decode, to_wire
from lpm_stream.hub.message import Message
from lpm_stream.publish import pack
from lpm_stream.publish.pack import Packer, Place
from lpm_stream_tests.example import SPEC, orders

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NDJSON_SPEC = SPEC.model_copy(update={"wire_format": "ndjson"})


def rows(company: str, *keys: str, spec=SPEC, **columns) -> pl.DataFrame:
    changes = orders(keys, company, **columns).with_columns(pl.lit("insert").alias(CHANGE_TYPE))
    return to_wire(changes, CONTENT_TYPES[spec.wire_format])


def packed(packer: Packer, *batches: dict[str, pl.DataFrame]) -> list[Message]:
    return [message for batch in batches for message in packer.add(batch)] + packer.finish()


def keys_in(message: Message) -> list[str]:
    if not message.rows:
        assert message.body == b""
        return []
    return decode([message.body], message.content_type, contract_schema(SPEC))["id"].to_list()


def assert_whole(messages: list[Message]) -> None:
    """Each company's chunks are numbered without a gap, and only the last is marked as such."""
    for company in {message.company for message in messages}:
        mine = [message for message in messages if message.company == company]
        assert [message.chunk for message in mine] == list(range(len(mine)))
        assert [message.last for message in mine] == [False] * (len(mine) - 1) + [True]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(pack, "_CHUNK_ROWS", 3)
    monkeypatch.setattr(pack, "_BUFFERED_ROWS", 8)


def test_a_company_gets_one_message_for_a_small_commit():
    [message] = packed(Packer(SPEC, 7, NOW, Place(), 10**6), {"A": rows("A", "1", "2")})
    assert (message.feed, message.company, message.version, message.committed_at) == ("orders", "A", 7, NOW)
    assert (message.chunk, message.last, message.rows) == (0, True, 2)
    assert message.fingerprint == SPEC.fingerprint
    assert keys_in(message) == ["1", "2"]


def test_an_attempt_has_a_name_of_its_own():
    batch = {"A": rows("A", "1"), "B": rows("B", "2")}
    first, second = (packed(Packer(SPEC, 7, NOW, Place(), 10**6), batch) for _ in range(2))
    assert len({message.attempt for message in first}) == 1
    assert first[0].attempt != second[0].attempt


@pytest.mark.parametrize(("published", "previous"), [({}, -1), ({"A": 3}, 3), ({"A": 7}, 6), ({"A": 9}, 6)])
def test_a_message_names_the_version_before_it_or_one_that_may_be_later(published, previous):
    [message] = packed(Packer(SPEC, 7, NOW, Place(previous=published), 10**6), {"A": rows("A", "1")})
    assert message.previous == previous


COMPANIES = st.dictionaries(st.sampled_from("ABC"), st.integers(0, 9))


@given(st.lists(COMPANIES, max_size=5), st.sampled_from([SPEC, NDJSON_SPEC]))
def test_all_rows_travel_once_in_whole_attempts(batches, spec):
    number = 0
    sent: dict[str, list[str]] = {}
    packer = Packer(spec, 7, NOW, Place(), 10**6)
    frames = []
    for batch in batches:
        frame = {}
        for company, count in batch.items():
            keys = [str(number + index) for index in range(count)]
            number += count
            sent.setdefault(company, []).extend(keys)
            frame[company] = rows(company, *keys, spec=spec)
        frames.append(frame)
    messages = packed(packer, *frames)
    assert_whole(messages)
    received: dict[str, list[str]] = {}
    for message in messages:
        assert message.rows <= 3
        assert len(keys_in(message)) == message.rows
        received.setdefault(message.company, []).extend(keys_in(message))
    assert received == sent


def test_chunks_that_fill_up_at_the_end_of_a_commit_are_followed_by_an_empty_last_one():
    messages = packed(Packer(SPEC, 7, NOW, Place(), 10**6), {"A": rows("A", "1", "2", "3")})
    assert [(message.rows, message.last) for message in messages] == [(3, False), (0, True)]


def test_many_companies_together_do_not_fill_memory():
    packer = Packer(SPEC, 7, NOW, Place(), 10**6)
    batch = {company: rows(company, "1", "2") for company in "ABCDE"}
    early = packer.add(batch)
    assert {message.company for message in early} == set("ABCDE")
    assert_whole(early + packer.finish())


@pytest.mark.parametrize("spec", [SPEC, NDJSON_SPEC], ids=["avro", "ndjson"])
def test_no_body_exceeds_the_hubs_limit(spec, monkeypatch):
    monkeypatch.setattr(pack, "_CHUNK_ROWS", 1_000)
    chance = random.Random(1)
    notes = ["".join(chr(chance.randrange(32, 127)) for _ in range(chance.choice([10, 500]))) for _ in range(200)]
    batch = rows("A", *(str(number) for number in range(200)), spec=spec).with_columns(note=pl.Series(notes))
    packer = Packer(spec, 7, NOW, Place(), 2_500)
    messages = packed(packer, {"A": batch})
    assert_whole(messages)
    assert max(len(message.body) for message in messages) <= 2_500
    assert [key for message in messages for key in keys_in(message)] == [str(number) for number in range(200)]
    assert packer.oversized == []


def test_a_row_that_no_message_holds_costs_only_itself(monkeypatch):
    monkeypatch.setattr(pack, "_CHUNK_ROWS", 1_000)
    chance = random.Random(1)
    notes = ["n"] * 7
    notes[4] = "".join(chr(chance.randrange(32, 127)) for _ in range(5_000))
    batch = rows("A", *"0123456").with_columns(note=pl.Series(notes))
    packer = Packer(SPEC, 7, NOW, Place(), 2_500)
    messages = packed(packer, {"A": batch})
    assert_whole(messages)
    assert sorted(key for message in messages for key in keys_in(message)) == list("012356")
    assert [row["id"].to_list() for row in packer.oversized] == [["4"]]


def test_a_company_whose_rows_are_all_too_large_still_gets_its_last_chunk():
    packer = Packer(SPEC, 7, NOW, Place(), 10)
    [message] = packed(packer, {"A": rows("A", "1")})
    assert (message.rows, message.last, message.chunk) == (0, True, 0)
    assert len(packer.oversized) == 1
