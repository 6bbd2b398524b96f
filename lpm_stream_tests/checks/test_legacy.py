"""Against legacy files: what is due is compared, and what is wrong is told of its company."""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lpm_stream.checks.files import compare_files
from lpm_stream.control import reconciliations
from lpm_stream.legacy.names import Period
from lpm_stream.legacy.report import Reconciliation, Sooner
from lpm_stream_tests.checks.example import DAY, SPEC, YESTERDAY, checked, passed, put_files, rows, with_legacy
from lpm_stream_tests.legacy.example import commit, deliver, put, touch

BOTH = {"A", "B"}


@pytest.fixture
def delivered(stream):
    """Two orders of each company."""
    for company in sorted(BOTH):
        commit(stream, rows(f"{company}1", f"{company}2", company=company), DAY.start + timedelta(hours=6))
    deliver(stream)
    return stream


def test_nothing_to_compare_is_no_failure(stream):
    one = checked(stream, "complete_against_legacy")["A"]
    assert (one.passed, one.description) == (True, "no legacy file yet")


def test_complete(delivered):
    for company in BOTH:
        put_files(delivered, f"{company}1", f"{company}2", company=company)
    results = checked(delivered, "complete_against_legacy")
    assert [one.passed for one in results.values()] == [True, True]
    assert results["A"].values["rows_in_file"] == 2
    assert results["A"].values["files"] == 2
    assert compare_files(delivered, BOTH) == []


def test_incomplete_names_file_kind_and_key_until_it_is_mended(delivered):
    path = put_files(delivered, "A1", "A2", "A3")
    put_files(delivered, "B1", "B2", company="B")
    results = checked(delivered, "complete_against_legacy")
    assert {company: one.bad for company, one in results.items()} == {"A": True, "B": False}
    assert results["A"].values["missing"] == 1
    assert results["A"].examples == (
        {"file": path, "period": DAY.start.isoformat(), "kind": "missing", "key": "A3", "columns": ""},
    )
    commit(delivered, rows("A1", "A2", "A3").tail(1), DAY.start + timedelta(hours=7))
    deliver(delivered)
    assert passed(delivered, "complete_against_legacy") == {"A": True, "B": True}


def test_a_file_that_is_re_issued_is_compared_again(delivered):
    put_files(delivered, "A1", "A2")
    compare_files(delivered, BOTH)
    put(delivered, "A", rows("A1"), DAY, issue=1)
    one = checked(delivered, "complete_against_legacy")["A"]
    assert (one.passed, one.values["extra"]) == (False, 1)


def test_a_file_that_does_not_come(delivered):
    path = put_files(delivered, "A1", "A2")
    Path(delivered.settings.legacy_url, path).unlink()
    put(delivered, "A", rows(), _before(DAY))
    [late] = [one for one in compare_files(delivered, BOTH) if one.verdict == "late"]
    assert late.period == DAY
    results = checked(delivered, "complete_against_legacy")
    assert {company: one.bad for company, one in results.items()} == {"A": True, "B": False}
    assert results["A"].examples[0]["kind"] == "late"


def test_days_before_the_time_looked_back_are_left_alone(delivered):
    put_files(delivered, "A1", "A2")
    put(delivered, "A", rows("lost"), _before(DAY, days=30))
    assert {one.period for one in compare_files(delivered, {"A"}) if one.file} == {DAY, YESTERDAY}
    assert all(one.period.end > datetime.now(UTC) - timedelta(days=8) for one in compare_files(delivered, {"A"}))


def test_only_the_companies_asked_for(delivered):
    put_files(delivered, "A1", "A2")
    put_files(delivered, "B1", "B2", company="B")
    assert {one.company for one in compare_files(delivered, {"B"})} == {"B"}


def test_a_file_that_fails_is_compared_again_and_what_still_grows_is_not(delivered):
    path = put_files(delivered, "A1", "A2", "A3")
    assert [one.verdict for one in compare_files(delivered, {"A"})] == ["failed", "passed"]
    assert [one.file for one in compare_files(delivered, {"A"})] == [path]
    patient = dataclasses.replace(delivered, spec=with_legacy(settle_seconds=3_600))
    touch(delivered, path, datetime.now(UTC))
    assert [one.file for one in compare_files(patient, {"A"})] == [path]  # the second look finds it unchanged


def test_the_severity_is_what_the_format_says(delivered):
    put_files(delivered, "A1")
    mild = dataclasses.replace(delivered, spec=with_legacy(severity="WARN"))
    one = checked(mild, "complete_against_legacy")["A"]
    assert (one.passed, one.severity, one.bad) == (False, "WARN", False)


def test_sooner_and_later(stream):
    def came(company: str, least: float) -> None:
        sooner = Sooner(rows=10, least=least, median=50.0)
        kept = Reconciliation(
            SPEC.name, company, DAY, datetime.now(UTC), "passed", file=f"{company}.csv", sooner=sooner
        )
        assert reconciliations.record(stream.store, kept)

    assert passed(stream, "sooner_than_legacy") == {"A": True, "B": True}
    came("A", 30.0)
    came("B", -5.0)
    results = checked(stream, "sooner_than_legacy")
    assert {company: one.passed for company, one in results.items()} == {"A": True, "B": False}
    assert results["A"].values["least_seconds"] == 30.0
    assert results["B"].severity == "WARN"
    assert results["B"].examples == ({"file": "B.csv", "least_seconds": "-5", "rows": "10"},)


def _before(period: Period, days: int = 1) -> Period:
    return dataclasses.replace(
        period, start=period.start - timedelta(days=days), end=period.end - timedelta(days=days)
    )
