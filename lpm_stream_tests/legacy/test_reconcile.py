from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable

from lpm_stream.control import ledger, reconciliations
from lpm_stream.control.latency import Latencies
from lpm_stream.legacy.report import Faults
from lpm_stream.stream import Stream
from lpm_stream_tests.example import START, orders
from lpm_stream_tests.legacy.example import HOUR, LATER, NEXT, commit, commit_at, compare, deliver, keys, one, put

ROWS = orders([f"k{number}" for number in range(50)], "A")


@pytest.fixture
def delivered(stream):
    commit(stream, ROWS)
    deliver(stream)
    return stream


def test_a_file_of_the_same_rows_passes(delivered):
    path = put(delivered, "A", ROWS)
    result = one(delivered)
    assert (result.verdict, result.file, result.problem) == ("passed", path, None)
    assert result.faults == Faults(rows_in_file=50, rows_in_table=50)
    assert (result.examples, result.broken, result.late_seconds) == ({}, (), 0)


def test_each_difference_is_found_and_nothing_else(delivered):
    changed = pl.col("id") == "k3"
    rows = pl.concat([ROWS.filter(pl.col("id") != "k1"), orders(["new"], "A")]).with_columns(
        pl.when(changed).then(-7).otherwise("amount").alias("amount").cast(pl.Int64),
        pl.when(changed).then(None).otherwise("due").alias("due"),
    )
    put(delivered, "A", rows)
    result = one(delivered)
    assert result.verdict == "failed"
    assert result.faults == Faults(50, 50, missing=1, extra=1, different=1)
    assert keys(result) == {"extra": ["k1"], "missing": ["new"], "different": ["k3"]}
    assert result.examples["different"][0].columns == ("amount", "due")


@pytest.mark.parametrize("column", ["ordered_at", "amount", "note", "weight", "count", "paid", "due"])
def test_every_column_is_compared(delivered, column):
    value = pl.col(column)
    other = {
        "ordered_at": value + pl.duration(milliseconds=1),
        "note": value + " ",
        "paid": ~value,
        "due": value + pl.duration(days=1),
    }.get(column, value + 1)
    rows = ROWS.with_columns(pl.when(pl.col("id") == "k7").then(other).otherwise(value).alias(column))
    put(delivered, "A", rows.cast(ROWS.schema))
    result = one(delivered)
    assert result.faults == Faults(50, 50, different=1)
    assert result.examples["different"][0].columns == (column,)


def test_what_the_file_cannot_hold_makes_no_difference(delivered):
    """Times are compared to the millisecond that the file has."""
    fine = ROWS.with_columns(pl.col("ordered_at") + pl.duration(microseconds=900))
    put(delivered, "A", fine)
    assert one(delivered).verdict == "passed"


def test_a_tolerance_is_allowed_for(delivered):
    put(delivered, "A", ROWS.head(-2))
    assert one(delivered).verdict == "failed"
    spec = delivered.spec.model_copy(
        update={"legacy": delivered.spec.legacy.model_copy(update={"tolerance_rows": 2})}
    )
    object.__setattr__(delivered, "spec", spec)
    assert one(delivered).verdict == "passed"


def test_a_row_corrected_after_the_cut_is_explained(delivered):
    put(delivered, "A", ROWS)
    update(delivered, "k3", HOUR.end + timedelta(seconds=1))
    result = one(delivered)
    assert (result.verdict, result.faults.different) == ("passed", 0)
    assert result.faults.explained == {"corrected_later": 1}


def test_a_row_corrected_before_the_cut_is_not(delivered):
    put(delivered, "A", ROWS)
    update(delivered, "k3", HOUR.end - timedelta(seconds=1))
    result = one(delivered)
    assert (result.verdict, keys(result)) == ("failed", {"different": ["k3"]})


def update(stream: Stream, key: str, at: datetime) -> None:
    DeltaTable(stream.table).update(updates={"amount": "99"}, predicate=f"id = '{key}'")
    commit_at(stream.table, at)
    deliver(stream)


def test_a_row_withdrawn_after_the_cut_is_explained(delivered):
    put(delivered, "A", ROWS)
    DeltaTable(delivered.table).delete("id = 'k3'")
    commit_at(delivered.table, HOUR.end + timedelta(seconds=1))
    deliver(delivered)
    result = one(delivered)
    assert (result.verdict, result.faults.explained) == ("passed", {"withdrawn_later": 1})


def test_a_row_withdrawn_before_the_cut_is_not(delivered):
    put(delivered, "A", ROWS)
    DeltaTable(delivered.table).delete("id = 'k3'")
    commit_at(delivered.table, HOUR.end - timedelta(seconds=1))
    deliver(delivered)
    result = one(delivered)
    assert (result.verdict, keys(result)) == ("failed", {"missing": ["k3"]})


def test_a_row_committed_after_the_cut_is_explained(delivered):
    put(delivered, "A", ROWS)
    commit(delivered, orders(["late"], "A"), HOUR.end + timedelta(seconds=1))
    deliver(delivered)
    result = one(delivered)
    assert (result.verdict, result.faults.explained) == ("passed", {"committed_later": 1})


@pytest.mark.parametrize(("seconds", "verdict"), [(5, "passed"), (60, "failed")])
def test_a_row_of_the_neighbouring_file_is_explained_near_the_edge(stream, seconds, verdict):
    """An order of the hour's last seconds may stand in the next hour's file."""
    straddling = orders(["edge"], "A", ordered_at=HOUR.end - timedelta(seconds=seconds))
    commit(stream, pl.concat([ROWS, straddling]))
    deliver(stream)
    put(stream, "A", ROWS)
    put(stream, "A", straddling, NEXT)
    first, second = compare(stream, NEXT.end + timedelta(minutes=30))
    assert first.verdict == verdict
    assert second.verdict == "passed"
    assert first.faults.explained == ({"in_neighbour": 1} if verdict == "passed" else {})
    assert (second.faults.rows_in_file, second.faults.rows_in_table) == (1, 0)


def test_a_row_near_the_edge_that_is_in_neither_file_is_a_defect(stream):
    straddling = orders(["edge"], "A", ordered_at=HOUR.end - timedelta(seconds=5))
    commit(stream, pl.concat([ROWS, straddling]))
    deliver(stream)
    put(stream, "A", ROWS)
    assert compare(stream, HOUR.end + timedelta(minutes=5))[0].faults.explained == {"grace": 1}
    put(stream, "A", orders([], []), NEXT)
    first, _ = compare(stream, NEXT.end + timedelta(minutes=30))
    assert keys(first) == {"extra": ["edge"]}


def test_what_the_stream_has_not_delivered_yet_is_explained_within_the_grace_period(stream):
    commit(stream, ROWS)
    put(stream, "A", ROWS)
    early, late = one(stream, HOUR.end + timedelta(minutes=5)), one(stream, LATER)
    assert (early.verdict, early.faults.explained) == ("passed", {"grace": 50})
    assert (late.verdict, late.faults.missing) == ("failed", 50)


def test_only_the_files_company_is_looked_at(delivered):
    """A company's file says nothing of another's rows."""
    commit(delivered, orders(["b1", "b2"], "B"))
    deliver(delivered)
    put(delivered, "A", ROWS)
    put(delivered, "B", orders(["b1"], "B"))
    results = {result.company: result for result in compare(delivered)}
    assert results["A"].verdict == "passed"
    assert keys(results["B"]) == {"extra": ["b2"]}


def test_rows_far_outside_of_the_period_are_found_by_their_keys(delivered, monkeypatch):
    put(delivered, "A", ROWS)
    put(delivered, "A", ROWS, NEXT)
    for most in (20_000, 10):  # a few by key, many by reading the whole table
        monkeypatch.setattr("lpm_stream.legacy.stage.MOST_KEYS", most)
        results = compare(delivered, NEXT.end + timedelta(minutes=30))
        assert [one.verdict for one in results] == ["passed", "passed"]


def test_the_history_has_one_result_a_period(delivered):
    store = delivered.store
    put(delivered, "A", ROWS.head(40))
    compare(delivered)
    [bad] = reconciliations.read(store, "orders")
    assert (bad.verdict, bad.extra, bad.rows_in_file, bad.period_start) == ("failed", 10, 40, START)
    assert bad.details["examples"]["extra"][0]["key"] == ["k40"]
    put(delivered, "A", ROWS, issue=1)
    compare(delivered)
    [good] = reconciliations.read(store, "orders", "A", START)
    assert (good.verdict, good.extra, good.file) == ("passed", 0, "A/orders_A_202601010100_R1.csv")
    assert reconciliations.read(store, "orders", "B") == []
    assert reconciliations.read(store, "orders", since=NEXT.start) == []
    [day] = reconciliations.by_day(store, "orders")
    assert (day.company, day.day, day.files, day.bad, day.completeness) == ("A", "2026-01-01", 1, 0, 1.0)


def test_a_file_says_how_much_sooner_the_stream_was(delivered):
    put(delivered, "A", ROWS)
    assert one(delivered).sooner is None  # the ledger has nothing of that hour
    latencies = Latencies()
    latencies.add(2.0, 50)
    with delivered.store.write() as connection:
        ledger.record(connection, "orders", {("A", HOUR.start + timedelta(minutes=1)): latencies})
    found = one(delivered).sooner
    assert found is not None
    # Committed in minute 1, applied 2 s later at most; the file came in minute 61.
    assert (found.rows, found.least, found.median) == (50, 3598.0, 3598.0)


def test_an_unreadable_database_says_nothing_of_the_stream(delivered):
    put(delivered, "A", ROWS)
    assert one(delivered).verdict == "passed"
    Path(sa.make_url(delivered.settings.database_url("A")).database or "").write_bytes(b"garbage" * 1000)
    result = one(delivered)
    assert result.verdict == "unread"
    assert "cannot be read" in (result.problem or "")
    assert reconciliations.read(delivered.store, "orders")[0].verdict == "passed"
