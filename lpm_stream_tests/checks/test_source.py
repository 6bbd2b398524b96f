"""Against the source table."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from deltalake import DeltaTable

from lpm_stream.checks.run import run_checks
from lpm_stream.control import parking, progress
from lpm_stream.errors import LpmStreamError
from lpm_stream.stream import Stream
from lpm_stream_tests.checks.example import SPEC, checked, rows
from lpm_stream_tests.example import append, deliver, publish


@pytest.fixture
def delivered(stream, monkeypatch):
    """Two orders of each company; what differs gets no time to settle."""
    monkeypatch.setattr("lpm_stream.checks.source._SETTLE_SECONDS", 0.0)
    for company in ("A", "B"):
        append(stream.table, rows(f"{company}1", f"{company}2", company=company))
    publish(stream)
    deliver(stream)
    return stream


def execute(stream: Stream, statement: str) -> None:
    with closing(sqlite3.connect(stream.settings.home / "companies" / "A.db")) as connection:
        connection.execute(statement)
        connection.commit()


def test_equal(delivered):
    results = checked(delivered, "complete_against_source")
    assert [one.passed for one in results.values()] == [True, True]
    watermarks = {
        company: one.version for company, one in progress.read_deliveries(delivered.store, SPEC.name).items()
    }
    assert {company: one.values["version"] for company, one in results.items()} == watermarks
    assert [one.values["rows_in_table"] for one in results.values()] == [2, 2]
    assert len({one.values["digest"] for one in results.values()}) == 2


def test_not_equal(delivered):
    execute(delivered, "DELETE FROM orders WHERE id = 'A1'")
    execute(delivered, "UPDATE orders SET amount = 7 WHERE id = 'A2'")
    results = checked(delivered, "complete_against_source")
    assert {company: one.bad for company, one in results.items()} == {"A": True, "B": False}
    assert results["A"].examples == (
        {"fault": "different", "key": "A2", "columns": "amount"},
        {"fault": "missing", "key": "A1", "columns": ""},
    )


def test_what_came_after_the_watermark_does_not_count(delivered):
    newest = progress.read_deliveries(delivered.store, SPEC.name)["A"]
    append(delivered.table, rows("A3"))
    publish(delivered)
    one = checked(delivered, "complete_against_source")["A"]
    assert (one.passed, one.values["version"]) == (True, newest.version)
    execute(delivered, "UPDATE orders SET amount = 7 WHERE id = 'A2'")
    with delivered.store.write() as connection:
        state = parking.park("A", 0, 1, newest.committed_at, "down")
        parking.write_parked(connection, SPEC.name, "A", state)
    one = checked(delivered, "complete_against_source")["A"]
    assert (one.passed, one.values["version"], one.values["missing"]) == (False, newest.version, 0)


def test_rows_are_compared_where_a_version_cannot_be_read_any_more(delivered):
    """Digests need each watermark's version; of the newest the rows can still be compared."""
    append(delivered.table, rows("A3"))
    publish(delivered)
    deliver(delivered)
    append(delivered.table, rows("B3", company="B"))
    publish(delivered)  # so that the table has changed since the watermark of B
    log = Path(delivered.table, "_delta_log")
    watermark = progress.read_deliveries(delivered.store, SPEC.name)["B"].version
    DeltaTable(delivered.table).create_checkpoint()
    for version in range(watermark + 1):
        (log / f"{version:020}.json").unlink()
    results = checked(delivered, "complete_against_source")
    assert {company: one.passed for company, one in results.items()} == {"A": True, "B": False}
    assert "1 missing" in results["B"].description
    assert results["B"].failure == "rows missing"


def test_unknown_names_are_refused(stream):
    with pytest.raises(LpmStreamError, match="company 'C' is not registered"):
        list(run_checks(stream, ["C"]))
    with pytest.raises(LpmStreamError, match="has no check 'nope': choose of not_parked"):
        list(run_checks(stream, names=["nope"]))
