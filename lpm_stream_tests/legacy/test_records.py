"""The format, read and written."""

import gzip
import io
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.schema import INSTANT, contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy import lines as lines_module
from lpm_stream.legacy.lines import Lines
from lpm_stream.legacy.records import Records
from lpm_stream.legacy.text import Text
from lpm_stream.legacy.values import compared, from_file
from lpm_stream.legacy.write import content
from lpm_stream_tests.legacy.example import FORM, SPEC

PLAIN = LegacyFormat(
    file_name="{company}_{start}",
    period="hourly",
    time_zone="UTC",
    delimiter="|",
    trailer="T|{count}",
    columns={"a": "id", "b": "note", "c": None},
)


class Read:
    """What a file is read as."""

    def __init__(self, form: LegacyFormat, body: bytes) -> None:
        self.lines = Lines(form, Text(io.BytesIO(body), form))
        records = Records(form, self.lines)
        self.frames = list(records.frames())
        self.rows = [row for frame in self.frames for row in frame.rows()]
        self.broken = [(one.line, one.reason) for one in records.broken.examples]
        self.count = records.count
        self.problem = self.lines.problem
        self.announced = self.lines.announced


def changed(**values: object) -> LegacyFormat:
    return PLAIN.model_copy(update=values)


def test_values_with_anything_in_them():
    body = b'a|b|c\n1|x|-\n"2"|"a|b\r\n\n""c"""|\n3||""\n4|""|x\nT|4\n'
    read = Read(PLAIN, body)
    assert read.rows == [("1", "x", 2), ("2", 'a|b\r\n\n"c"', 3), ("3", None, 6), ("4", "", 7)]
    assert (read.broken, read.count, read.announced, read.problem) == ([], 4, 4, None)


def test_line_ends_of_windows_and_blank_lines_behind():
    read = Read(PLAIN, b"\xef\xbb\xbfa|b|c\r\n1|x|\r\nT|1\r\n\r\n\n")
    assert (read.rows, read.broken, read.announced) == ([("1", "x", 2)], [], 1)


def test_broken_lines_are_told_by_number_and_the_rest_is_read():
    body = (
        b'a|b|c\n1|x|\n2|x\n3|"x|\n4|x|\n5|a"b"|\n6|\xff|\n'
        b'7|"x"y|\n8|x|\n9|x|y|z\n10|"one\nrecord"|\n11|"|\nT|11\n'
    )
    read = Read(PLAIN, body)
    assert [row[0] for row in read.rows] == ["1", "4", "8", "10"]
    quote = "has a quote that is not closed, or in the wrong place"
    assert read.broken == [
        (3, "has 2 values instead of 3"),
        (4, quote),
        (6, quote),
        (7, "is not valid utf-8"),
        (8, quote),
        (10, "has 4 values instead of 3"),
        (13, quote),
    ]
    assert (read.count, read.announced, read.problem) == (11, 11, None)


def test_a_line_of_endless_length_is_broken(monkeypatch):
    monkeypatch.setattr(lines_module, "_CHARACTERS_AT_ONCE", 1 << 20)
    read = Read(PLAIN, b"a|b|c\n1|x|\n2|" + b"x" * (4 << 20) + b"|\n3|x|\nT|3\n")
    assert [row[0] for row in read.rows] == ["1", "3"]
    assert read.broken == [(3, "is longer than 1,048,576 characters")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_it_does_not_matter_where_pieces_end(monkeypatch, size):
    monkeypatch.setattr("lpm_stream.legacy.text._BYTES_AT_ONCE", size)
    monkeypatch.setattr(lines_module, "_CHARACTERS_AT_ONCE", size)
    body = 'a|b|c\n1|"ä\n\n€"|\n2|"x|\n3|y|\n4|"z\n"|\nT|4\n'
    for form, stored in ((PLAIN, body.encode()), (changed(compression="gzip"), gzip.compress(body.encode()))):
        read = Read(form, stored)
        assert read.rows == [("1", "ä\n\n€", 2), ("3", "y", 6), ("4", "z\n", 7)]
        assert [line for line, _ in read.broken] == [5]
        assert (read.count, read.announced, read.problem) == (4, 4, None)


@pytest.mark.parametrize(
    ("body", "problem", "ids"),
    [
        (b"", "cut short: it has no trailer", []),
        (b"a|b|c\n", "cut short: it has no trailer", []),
        (b"a|b|c\n1|x|\n2|x|", "cut short: it has no trailer", ["1"]),
        (b"a|b|c\n1|x|\n2|x|\n", "cut short: it has no trailer", ["1", "2"]),
        (b"a|b\n1|x\nT|1\n", "the header lacks c", []),
        (b"a|b|c|d\n1|x||\nT|1\n", "the header names columns that are not declared, or one twice", []),
        (b"c|a|b\n|1|x\nT|1\n", None, ["1"]),
    ],
)
def test_what_is_wrong_with_a_file_as_a_whole(body, problem, ids):
    read = Read(PLAIN, body)
    assert problem in (read.problem or "") if problem else read.problem is None
    assert [row[0] for row in read.rows] == ids
    assert read.broken == []


def test_gzip_damage():
    body = b"a|b|c\n" + b"".join(b"%d|%x|\n" % (n, n * 7919**3) for n in range(100_000)) + b"T|100000\n"
    form = changed(compression="gzip")
    whole = gzip.compress(body)
    assert Read(form, whole).count == 100_000
    assert Read(form, gzip.compress(body[:9_000]) + gzip.compress(body[9_000:]) + b"\0\0").count == 100_000
    for stored, reason in (
        (whole[: len(whole) // 2], "the gzip data break off"),
        (whole[:-4], "the gzip data break off"),
        (whole[:-8] + b"\0" * 8, "the gzip data are damaged"),
        (body, "the gzip data are damaged"),
    ):
        read = Read(form, stored)
        assert read.problem == f"the file is cut short: {reason}"
        assert read.broken == []
        assert [row[0] for row in read.rows] == [str(n) for n in range(len(read.rows))]


def test_without_header_trailer_and_quotes():
    form = changed(header=False, trailer=None, quote=None, delimiter="\t", encoding="cp1252")
    read = Read(form, b'1\t5" pipe\t\n2\t\x80\tx\n3')
    assert read.rows == [("1", '5" pipe', 1), ("2", "€", 2)]
    assert read.broken == [(3, "has 1 values instead of 3")]


def typed(form: LegacyFormat, spec: FeedSpec, body: bytes) -> pl.DataFrame:
    read = Read(form, body)
    assert (read.problem, read.broken) == (None, [])
    if not read.frames:
        return pl.DataFrame()
    parts = [from_file(compared(spec, form), form, frame) for frame in read.frames]
    assert not any(part.breaches for part in parts)
    return pl.concat(part.rows for part in parts).drop("_line")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0"), max_size=12) | st.text(
    ';|"\n\r\t-E ', max_size=6
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXT,
            "customer": st.just("A"),
            "ordered_at": st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001 - as Hypothesis wants them
            "amount": st.none() | st.integers(-(2**63), 2**63 - 1),
            "note": st.none() | TEXT,
            "weight": st.none() | st.floats(allow_nan=False),
            "count": st.none() | st.integers(-(2**31), 2**31 - 1),
            "paid": st.none() | st.booleans(),
            "due": st.none() | st.dates(date(1, 1, 1), date(9999, 12, 31)),
        }
    ),
    max_size=6,
    unique_by=lambda row: row["id"],
)
FORMS = st.sampled_from([(";", '"'), ("|", "'"), ("\t", '"'), (",", "^"), ("]", "\\"), ("~", "+")])


@given(
    ROWS,
    FORMS,
    st.sampled_from(["none", "gzip"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
)
def test_what_is_written_is_read_again(rows, characters, compression, header, encoding):
    form = FORM.model_copy(
        update={
            "delimiter": characters[0],
            "quote": characters[1],
            "compression": compression,
            "header": header,
            "encoding": encoding,
            "time_zone": "UTC",
            "timestamp_format": "%Y-%m-%dT%H:%M:%S%.6f",
            "date_format": "%Y-%m-%d",
        }
    )
    plain = contract_schema(SPEC) | {"ordered_at": pl.Datetime("us")}
    frame = pl.DataFrame(rows, schema=plain, orient="row").with_columns(pl.col("ordered_at").cast(INSTANT))
    read = typed(form, SPEC, content(SPEC, form, frame))
    assert read.rows() == [
        (
            *(row[name] for name in ("id", "ordered_at", "amount", "note", "weight", "count")),
            None if row["paid"] is None else int(row["paid"]),
            row["due"] and row["due"].isoformat(),
        )
        for row in rows
    ]


@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_read_without_an_accident(garbage, inside):
    body = b"a|b|c\n" + garbage + b"\nT|1\n" if inside else garbage
    read = Read(PLAIN, body)
    assert len(read.rows) + len(read.broken) <= max(read.count, 10)
    packed = Read(changed(compression="gzip"), garbage)
    assert packed.rows == []


def test_values_that_fit_no_type_are_told():
    body = (
        "NO;AT;FILLER;AMOUNT;NOTE;WEIGHT;COUNT;PAID;DUE\n"
        "1;01.01.2026 00:00:00.000;;1;-;1.5;1;yes;01.01.2026\n"
        "2;2026-01-01;;1;-;1.5;1;no;01.01.2026\n"
        "3;01.01.2026 00:00:00.000;;1.5;-;x;1;maybe;31.02.2026\n"
        "-;01.01.2026 00:00:00.000;;1;-;1.5;1;no;01.01.2026\n"
        "END;4\n"
    )
    frame = Read(FORM, body.encode()).frames[0]
    found = from_file(compared(SPEC, FORM), FORM, frame)
    assert [(reason, mask.arg_true().to_list()) for reason, mask in found.breaches] == [
        ("column NO of the key is empty", [3]),
        ("column AT is not a timestamp in the declared format", [1]),
        ("column AMOUNT is not a whole number", [2]),
        ("column WEIGHT is not a number", [2]),
        ("column PAID is not one of the two texts for true and false", [2]),
        ("column DUE is not a date in the declared format", [2]),
    ]
    assert found.keyless.to_list() == [False, False, False, True]
