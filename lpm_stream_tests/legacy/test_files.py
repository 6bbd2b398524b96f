"""Which files there are and what state they are in: late, re-issued, growing, broken, oddly named."""

import dataclasses
import gzip
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lpm_stream.control import reconciliations
from lpm_stream.control.registry import register
from lpm_stream.errors import LegacyError
from lpm_stream.legacy.listing import absent
from lpm_stream.legacy.location import open_location
from lpm_stream.legacy.names import Names, Period, file_name, period_at, periods
from lpm_stream.legacy.reconcile import look
from lpm_stream.legacy.report import Faults
from lpm_stream.legacy.write import content
from lpm_stream.stream import Stream
from lpm_stream_tests.example import orders
from lpm_stream_tests.legacy.example import (
    FORM,
    HOUR,
    LATER,
    NEXT,
    SPEC,
    commit,
    compare,
    deliver,
    one,
    put,
    touch,
)

ROWS = orders([f"k{number}" for number in range(20)], "A")
HOSTILE = [
    "../../etc/x",
    "a/b",
    'it\'s "quoted"',
    "🚑",
    "..",
    "x" * 300,
    "*",
    "{start}",
    "a b",
    "tab\t",
    "acme",
    "ACME",
]


@pytest.fixture
def delivered(stream):
    commit(stream, ROWS)
    deliver(stream)
    return stream


def test_the_last_issue_counts(delivered):
    put(delivered, "A", ROWS.head(5))
    again = put(delivered, "A", ROWS, issue=10)
    put(delivered, "A", ROWS.head(7), issue=9)
    result = one(delivered)
    assert (result.file, result.verdict) == (again, "passed")


def test_a_file_overwritten_in_place_is_compared_anew(delivered):
    put(delivered, "A", ROWS.head(5))
    assert one(delivered).verdict == "failed"
    put(delivered, "A", ROWS)
    assert one(delivered).verdict == "passed"


def test_an_empty_hour_has_an_empty_file(delivered):
    put(delivered, "B", orders([], []))
    result = one(delivered)
    assert (result.verdict, result.faults) == ("passed", Faults())


def test_an_overdue_file_is_late_until_it_comes(delivered):
    put(delivered, "A", ROWS)
    on_time, overdue = compare(delivered, NEXT.end + timedelta(minutes=11))
    assert on_time.verdict == "passed"
    assert (overdue.verdict, overdue.company, overdue.period, overdue.late_seconds) == ("late", "A", NEXT, 60)
    assert "it was due at 2026-01-01T02:10:00" in (overdue.problem or "")
    assert len(compare(delivered, NEXT.end + timedelta(minutes=9))) == 1
    touch(delivered, put(delivered, "A", orders([], []), NEXT), NEXT.end + timedelta(minutes=25))
    arrived = compare(delivered, NEXT.end + timedelta(minutes=26))[1]
    assert (arrived.verdict, arrived.late_seconds) == ("passed", 15 * 60)
    assert [kept.verdict for kept in reconciliations.read(delivered.store, "orders")] == ["passed", "passed"]


def test_where_empty_hours_have_no_files_only_hours_with_rows_lack_one(delivered):
    form = FORM.model_copy(update={"empty_periods": "none"})
    quiet = Stream(SPEC.model_copy(update={"legacy": form}), delivered.settings, delivered.store, delivered.hub)
    now = NEXT.end + timedelta(minutes=30)
    found = compare(quiet, now, since=HOUR.start)
    assert [(result.verdict, result.company, result.period) for result in found] == [("late", "A", HOUR)]


def test_a_growing_file_is_waited_for(delivered):
    path = put(delivered, "A", ROWS)
    whole = Path(delivered.settings.legacy_url, path).read_bytes()
    put(delivered, "A", whole[:300])
    slow = Stream(
        SPEC.model_copy(update={"legacy": FORM.model_copy(update={"settle_seconds": 60})}),
        delivered.settings,
        delivered.store,
        delivered.hub,
    )
    now = HOUR.end + timedelta(seconds=90)  # half a minute after the file was written to
    assert one(slow, now).verdict == "waiting"
    assert reconciliations.read(slow.store, "orders") == []
    with open_location(slow.settings) as location:
        first = look(slow, location, now)
        assert look(slow, location, now, first).growing == frozenset()  # the same twice: it has stopped
        put(slow, "A", whole)
        assert look(slow, location, now, first).growing == {path}
    result = one(slow, now + timedelta(minutes=5))
    assert result.verdict == "passed"


def test_a_truncated_file_is_said_to_be_and_nothing_else(delivered):
    body = content(SPEC, FORM, ROWS)
    put(delivered, "A", body[: len(body) // 2])
    result = one(delivered)
    assert (result.verdict, result.problem) == ("failed", "the file is cut short: it has no trailer")
    faults = result.faults
    assert (faults.missing, faults.extra, faults.different, faults.broken) == (0, 0, 0, 0)
    assert 0 < faults.rows_in_file < 20


def test_a_wrong_trailer_is_said_to_be_and_nothing_else(delivered):
    put(delivered, "A", content(SPEC, FORM, ROWS).replace(b"END;20", b"END;21"))
    result = one(delivered)
    assert (result.verdict, result.faults) == ("failed", Faults(20, 20))
    assert result.problem == "the trailer says 21 records, the file has 20"


def test_broken_lines_are_reported_and_the_rest_is_compared(delivered):
    lines = content(SPEC, FORM, ROWS).decode().splitlines()
    lines[3] = re.sub(r";\d\d\.", ";99.", lines[3])  # k2: its key is still known
    lines[5] += ";more"  # k4
    lines[7] = lines[6]  # k5 again, in place of k6
    put(delivered, "A", "\n".join([*lines, ""]).encode())
    result = one(delivered)
    assert [(line.line, line.reason) for line in result.broken] == [
        (4, "column AT is not a timestamp in the declared format"),
        (6, "has 10 values instead of 9"),
        (8, "has the key of an earlier line"),
    ]
    assert result.faults == Faults(20, 20, extra=2, broken=3)  # k4 and k6, whose lines are lost


def test_damaged_gzip_is_said_to_be_and_nothing_else(delivered):
    form = FORM.model_copy(update={"compression": "gzip"})
    packed = Stream(SPEC.model_copy(update={"legacy": form}), delivered.settings, delivered.store, delivered.hub)
    body = gzip.compress(content(SPEC, FORM, ROWS))
    put(packed, "A", body[:-30])
    result = one(packed)
    assert (result.verdict, result.problem) == ("failed", "the file is cut short: the gzip data break off")
    assert (result.faults.extra, result.faults.missing, result.faults.broken) == (0, 0, 0)


def test_other_files_are_left_alone(delivered):
    put(delivered, "A", ROWS)
    folder = Path(delivered.settings.legacy_url)
    for name in ("A/orders_A_202601010100.csv.part", "A/orders_B_202601010100.csv", "C/orders_C_202601010100.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "A" / "orders_A_202613990100.csv").write_text("no such month")
    with open_location(delivered.settings) as location:
        listing = look(delivered, location, LATER)
    assert [file.company for file in listing.files] == ["A"]
    assert len(listing.unrecognised) == 4
    assert absent(FORM, listing, ["A", "B"], LATER) == []


def test_hostile_ids_stay_inside_and_apart(stream):
    for company in HOSTILE:
        register(stream.store, company)
        put(stream, company, orders([], []))
    folder = Path(stream.settings.legacy_url).resolve()
    assert [path for path in folder.parent.iterdir() if path.name == "legacy"] == [folder]
    assert len(list(folder.iterdir())) == len(HOSTILE)
    results = compare(stream)
    assert sorted(result.company for result in results) == sorted(HOSTILE)
    assert {result.verdict for result in results} == {"passed"}


@pytest.mark.parametrize("period", ["minutely", "hourly", "daily"])
def test_names_are_read_as_they_are_written(period):
    form = FORM.model_copy(update={"period": period})
    names = Names(form, HOSTILE)
    instant = datetime(2026, 3, 28, 22, tzinfo=UTC)
    for one_period in list(periods(form, instant, instant + timedelta(days=3)))[:200]:
        for company in HOSTILE:
            named = names.read(file_name(form, company, one_period, 3))
            assert named is not None
            assert (named.company, named.period, named.issue) == (company, one_period, 3)


def test_files_may_name_companies_as_the_feed_declares():
    form = FORM.model_copy(update={"company_names": {"ACME": "0042", "gone": "0001"}})
    path = file_name(form, "ACME", HOUR)
    assert path.startswith("0042/orders_0042_")
    named = Names(form, ["ACME", "B"]).read(path)
    assert named is not None
    assert named.company == "ACME"
    assert Names(form, ["ACME", "B"]).read(path.replace("0042", "ACME")) is None
    with pytest.raises(LegacyError, match="'0042' could be those of company '0042' or of 'ACME'"):
        Names(form, ["0042", "ACME"])


def test_a_period_whose_rows_all_came_after_the_cut_needs_no_file(stream):
    form = FORM.model_copy(update={"empty_periods": "none"})
    patient = dataclasses.replace(stream, spec=SPEC.model_copy(update={"legacy": form}))
    put(patient, "A", orders([], "A"), Period(HOUR.start - timedelta(hours=1), HOUR.start))
    early = HOUR.start + timedelta(minutes=5)
    commit(patient, orders(["1"], "A", ordered_at=early), HOUR.end + timedelta(minutes=5))
    deliver(patient)
    assert {result.verdict for result in compare(patient)} == {"passed"}
    commit(patient, orders(["2"], "A", ordered_at=early), early)
    deliver(patient)
    assert {result.verdict for result in compare(patient)} == {"passed", "late"}


def test_periods_follow_the_clock_of_the_zone():
    day = FORM.model_copy(update={"period": "daily"})
    short = period_at(day, datetime(2026, 3, 29, 12, tzinfo=UTC))
    assert (short.start, short.end - short.start) == (datetime(2026, 3, 28, 23, tzinfo=UTC), timedelta(hours=23))
    # Berlin has 02:00 to 03:00 twice: one file.
    twice = period_at(FORM, datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    assert twice == period_at(FORM, datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    assert twice.end - twice.start == timedelta(hours=2)


def test_the_hour_that_comes_twice_compares_as_it_reads(stream):
    twice = period_at(FORM, datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    rows = orders(["first"], "A", ordered_at=datetime(2026, 10, 25, 0, 30, tzinfo=UTC)).vstack(
        orders(["second"], "A", ordered_at=datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    )
    commit(stream, rows)
    deliver(stream)
    put(stream, "A", rows, twice)
    result = one(stream, twice.end + timedelta(minutes=30))
    assert (result.verdict, result.faults) == ("passed", Faults(2, 2))
