import io
import json
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import fastavro
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from isal import isal_zlib

from lpm_stream.errors import HubError
from lpm_stream.feed.schema import CHANGE_TYPE, INSTANT, POLARS_TYPES, contract_schema
from lpm_stream.feed.spec import MOST_DIGITS
from lpm_stream.hub import codec
from lpm_stream.hub.codec import AVRO, NDJSON, decode, encode, to_wire
from lpm_stream_tests.example import SPEC, orders

CONTENT_TYPES = [AVRO, NDJSON]
DECIMALS = {
    f"a_decimal_{digits}_{scale}": (digits, scale) for digits, scale in [(10, 2), (38, 0), (38, 10), (3, 3)]
}
SCHEMA: dict[str, pl.DataType] = {f"a_{name}": dtype for name, dtype in POLARS_TYPES.items()} | {
    name: pl.Decimal(*digits) for name, digits in DECIMALS.items()
}
FIRST, LAST = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)  # noqa: DTZ001 - Hypothesis adds it


def decimals(digits: int, scale: int) -> st.SearchStrategy[Decimal]:
    whole = st.integers(1 - 10**digits, 10**digits - 1)
    return whole.map(lambda unscaled: Decimal(unscaled).scaleb(-scale, Context(MOST_DIGITS)))


VALUES = {
    "a_string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    "a_int32": st.integers(-(2**31), 2**31 - 1),
    "a_int64": st.integers(-(2**63), 2**63 - 1),
    "a_float64": st.floats(allow_nan=False, allow_infinity=False),
    "a_boolean": st.booleans(),
    "a_timestamp": st.datetimes(FIRST, LAST, timezones=st.just(UTC)),
    "a_date": st.dates(),
    **{name: decimals(*digits) for name, digits in DECIMALS.items()},
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | value for name, value in VALUES.items()}), max_size=8)
NOTHING = dict.fromkeys(SCHEMA)
EXTREMES = [
    NOTHING | {"a_string": "", "a_int32": -(2**31), "a_int64": -(2**63), "a_float64": -0.0, "a_date": date.min},
    NOTHING
    | {"a_string": "\U0010ffff\n\"'\\,\u2028\0", "a_int64": 2**63 - 1, "a_float64": 5e-324, "a_boolean": False},
    NOTHING | {"a_timestamp": FIRST.replace(tzinfo=UTC), "a_float64": 1.7976931348623157e308, "a_date": date.max},
    NOTHING | {"a_timestamp": LAST.replace(tzinfo=UTC), "a_int32": 2**31 - 1, "a_string": "null"},
    *(
        NOTHING | {"a_decimal_10_2": Decimal(number) / 100}
        for number in (0, -1, 127, 128, 32_767, 32_768, -32_768)
    ),
    NOTHING | {"a_decimal_38_0": Decimal("9" * 38), "a_decimal_38_10": Decimal(f"-{'9' * 28}.{'9' * 10}")},
    NOTHING | {"a_timestamp": datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), "a_string": "s" * 3_000},
    NOTHING,
]


def frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA).with_columns(pl.lit("insert").alias(CHANGE_TYPE))


def encoded(rows: pl.DataFrame, content_type: str) -> bytes:
    return encode(to_wire(rows, content_type), content_type)


def changes(*keys: str) -> pl.DataFrame:
    return orders(keys, "A").with_columns(pl.lit("insert").alias(CHANGE_TYPE))


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@given(rows=ROWS.filter(len))
@example(rows=EXTREMES)
@example(rows=[NOTHING])
def test_what_is_encoded_can_be_decoded(content_type, rows):
    sent = frame(rows)
    received = decode([encoded(sent, content_type)], content_type, SCHEMA)
    assert received.schema == sent.schema
    assert received.equals(sent)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@given(parts=st.lists(ROWS.filter(len), min_size=1, max_size=4))
def test_bodies_are_decoded_one_behind_the_other(content_type, parts):
    sent = [frame(rows) for rows in parts]
    received = decode([encoded(part, content_type) for part in sent], content_type, SCHEMA)
    assert received.equals(pl.concat(sent))


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_column_that_only_some_bodies_have_is_null_in_the_others(content_type):
    wider = changes("2").with_columns(extra=7)
    received = decode(
        [encoded(rows, content_type) for rows in (changes("1"), wider, changes("3"))],
        content_type,
        contract_schema(SPEC),
    )
    assert received["extra"].to_list() == [None, 7, None]
    assert received["id"].to_list() == ["1", "2", "3"]


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_column_beyond_the_contract_may_be_null_throughout_a_body(content_type):
    parts = [changes("1").with_columns(extra=pl.lit(None, pl.Int64)), changes("2").with_columns(extra=7)]
    received = decode([encoded(part, content_type) for part in parts], content_type, contract_schema(SPEC))
    assert received["extra"].to_list() == [None, 7]


@given(rows=ROWS.filter(len))
@example(rows=EXTREMES)
def test_another_avro_reader_reads_the_same(rows):
    body = encoded(frame(rows), AVRO)
    assert list(fastavro.reader(io.BytesIO(body))) == [row | {CHANGE_TYPE: "insert"} for row in rows]
    schema: Any = fastavro.reader(io.BytesIO(body)).writer_schema
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    assert {"type": "long", "logicalType": "timestamp-micros"} in fields["a_timestamp"]
    assert {"type": "int", "logicalType": "date"} in fields["a_date"]
    assert fields["a_decimal_10_2"][1] == {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}


def test_columns_may_lie_in_memory_in_different_pieces():
    def pieces(*lengths: int) -> pl.Series:
        parts = [pl.Series([str(number) for number in range(length)]) for length in lengths]
        return pl.concat(parts, rechunk=False)

    rows = pl.DataFrame({"a": pieces(1, 1, 1), "b": pieces(1, 2), "c": pieces(3)})
    assert [rows[name].n_chunks() for name in "abc"] == [3, 2, 1]
    assert decode([encode(rows, AVRO)], AVRO, {}).equals(rows)


def test_another_writers_avro_is_read():
    """With several blocks, another sync marker, and more in its metadata."""
    fields = [{"name": "id", "type": ["null", "string"]}, {"name": "amount", "type": ["null", "long"]}]
    schema = {"type": "record", "name": "change", "fields": fields}
    records = [{"id": str(number), "amount": number} for number in range(1_000)]
    body = io.BytesIO()
    fastavro.writer(body, schema, records, codec="deflate", sync_interval=500, metadata={"written": "elsewhere"})
    received = decode([body.getvalue()], AVRO, {"id": pl.String(), "amount": pl.Int64()})
    assert received.to_dicts() == records


def test_ndjson_is_a_json_object_a_line():
    [line] = encoded(frame(EXTREMES[2:3]), NDJSON).decode().splitlines()
    found = json.loads(line)
    assert found["a_timestamp"] == "0001-01-01T00:00:00.000000Z"
    assert found["a_date"] == "9999-12-31"
    assert found["a_string"] is None


def test_avro_is_smaller_than_ndjson():
    rows = changes(*map(str, range(1_000)))
    assert len(encoded(rows, AVRO)) * 3 < len(encoded(rows, NDJSON))


def test_an_unknown_content_type_is_named():
    with pytest.raises(HubError, match="'text/csv'"):
        decode([b"1,2"], "text/csv", SCHEMA)


# Bodies that are not what they should be. Neither format carries a checksum: the hub does.


def mutated(body: bytes, chance: random.Random) -> bytes:
    out = bytearray(body)
    kind = chance.randrange(4)
    if kind == 0:
        return bytes(out[: chance.randrange(len(out))])
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(out))
        if kind == 1:
            out[at] = chance.randrange(256)
        elif kind == 2:
            out[at : at + chance.randrange(1, 5)] = b""
        else:
            out[at:at] = chance.randbytes(chance.randrange(1, 5))
    return bytes(out)


def damaged_inside(body: bytes, chance: random.Random) -> bytes:
    """Damage that compression would hide from simpler ones."""
    parsed = codec._parsed(body)
    [(count, block)] = parsed.blocks
    data = mutated(isal_zlib.decompress(block, -15), chance)
    return _with_block(parsed.schema, count, None, isal_zlib.compress(data, 2, -15))


def outcome(body: bytes, content_type: str) -> pl.DataFrame | None:
    try:
        return decode([body], content_type, contract_schema(SPEC))
    except HubError:
        return None


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@given(body=st.binary(max_size=200))
def test_garbage_is_a_hub_error(content_type, body):
    assert outcome(body, content_type) is None or body.strip()


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("damage", [mutated, damaged_inside])
def test_a_damaged_body_is_a_hub_error_and_no_other(content_type, damage, capfd):
    if (content_type, damage) == (NDJSON, damaged_inside):
        damage = mutated
    chance = random.Random(7)
    body = encoded(changes("1", "2", "3"), content_type)
    for _ in range(1_500):
        outcome(damage(body, chance), content_type)
    capfd.readouterr()  # polars says there what it met


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_truncated_body_is_never_taken_for_a_whole_one(content_type):
    rows = changes("1", "2", "3")
    body = encoded(rows, content_type)
    for length in range(len(body)):
        received = outcome(body[:length], content_type)
        assert received is None or received.height < rows.height or received.equals(rows)


@pytest.mark.parametrize("count", [-1, 4, 10**6, 2**40, 2**62])
def test_a_block_that_claims_more_rows_than_it_holds(count, capfd):
    parsed = codec._parsed(encoded(changes("1", "2", "3"), AVRO))
    [(_, block)] = parsed.blocks
    body = _with_block(parsed.schema, count, None, block)
    assert outcome(body, AVRO) is None
    capfd.readouterr()


@pytest.mark.parametrize("size", [-1, -16, -200, 2**40])
def test_a_block_that_claims_another_size(size):
    parsed = codec._parsed(encoded(changes("1", "2", "3"), AVRO))
    [(count, block)] = parsed.blocks
    assert outcome(_with_block(parsed.schema, count, size, block), AVRO) is None


def test_metadata_that_leads_back_ends():
    """Found by mutation: a negative size made the reader go round and round."""
    body = bytearray(encoded(changes("1"), AVRO))
    for at in range(4, 80):
        for value in (1, 3, 5, 15, 31, 63, 127, 255):
            outcome(bytes(body[:at]) + bytes([value]) + bytes(body[at + 1 :]), AVRO)


def _with_block(schema: bytes, count: int, size: int | None, block: bytes) -> bytes:
    size = len(block) if size is None else size
    head = codec._container(schema, b"deflate", codec._OUR_SYNC, [])
    return head + _zigzag(count) + _zigzag(size) + block + codec._OUR_SYNC


def _zigzag(value: int) -> bytes:
    value = value * 2 if value >= 0 else -value * 2 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_instants_keep_their_type_in_between():
    wire = to_wire(changes("1"), AVRO)
    assert wire.schema["ordered_at"] == pl.Datetime("us")
    assert decode([encode(wire, AVRO)], AVRO, {}).schema["ordered_at"] == INSTANT
    early = changes("1").with_columns(ordered_at=pl.lit(datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=1)))
    assert decode([encoded(early, NDJSON)], NDJSON, contract_schema(SPEC))["ordered_at"][0].microsecond == 1


def prices(dtype: pl.Decimal, *texts: str) -> pl.DataFrame:
    return pl.DataFrame({"price": texts}).cast(dtype)


def test_a_decimal_is_text_in_ndjson():
    assert encoded(prices(pl.Decimal(10, 2), "-0.5", "7"), NDJSON) == b'{"price":"-0.50"}\n{"price":"7.00"}\n'


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_decimal_of_fewer_digits_becomes_what_the_contract_says(content_type):
    body = encoded(prices(pl.Decimal(4, 1), "1.5"), content_type)
    assert decode([body], content_type, {"price": pl.Decimal(10, 2)}).equals(prices(pl.Decimal(10, 2), "1.5"))


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_decimal_is_never_rounded(content_type):
    body = encoded(prices(pl.Decimal(10, 3), "1.505"), content_type)
    for scale in (0, 2):
        with pytest.raises(HubError, match=r"values of column price that Decimal.* does not hold exactly"):
            decode([body], content_type, {"price": pl.Decimal(10, scale)})


def test_a_decimal_keeps_its_own_type_where_it_has_become_wider_or_is_not_of_the_contract():
    sent = prices(pl.Decimal(12, 2), "9999999999.99")
    for schema in ({"price": pl.Decimal(10, 2)}, {}):
        assert decode([encoded(sent, AVRO)], AVRO, schema).equals(sent)


def test_decimals_of_other_avro_writers_are_read():
    schema = {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}
    record = {"type": "record", "name": "change", "fields": [{"name": "price", "type": ["null", schema]}]}
    values = [Decimal(number) / 100 for number in (0, -1, 127, 128, -128, -129, 32_768, 9_999_999_999)]
    body = io.BytesIO()
    fastavro.writer(body, record, [{"price": value} for value in [*values, None]], codec="deflate")
    found = decode([body.getvalue()], AVRO, {"price": pl.Decimal(10, 2)})
    assert found["price"].to_list() == [*values, None]
