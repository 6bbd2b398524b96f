"""No traffic and no delivery are told apart."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.stream import Stream
from lpm_stream_tests.checks.example import checked, rows
from lpm_stream_tests.example import append, deliver, publish
from lpm_stream_tests.legacy.example import commit_at


def told(stream: Stream) -> dict[str, tuple[bool, str]]:
    return {company: (one.passed, one.description) for company, one in checked(stream, "fresh").items()}


def an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def published(stream):
    publish(stream)
    return stream


def test_no_traffic(published):
    for passed, said in told(published).values():
        assert passed
        assert said == "no traffic yet: nothing was committed for it"


def test_up_to_date_and_the_others_without_traffic(published):
    append(published.table, rows("1"))
    publish(published)
    assert told(published)["A"][0]
    deliver(published)
    assert told(published)["A"] == (True, "up to date")
    assert checked(published, "fresh")["A"].values["delivered_version"] == 1
    assert told(published)["B"] == (True, "no traffic yet: nothing was committed for it")


def test_no_delivery_is_the_company_s_alone(published):
    append(published.table, rows("1"))
    commit_at(published.table, an_hour_ago())
    publish(published)
    results = told(published)
    assert not results["A"][0]
    assert "no delivery" in results["A"][1]
    assert "nobody delivers" in results["A"][1]
    assert results["B"][0]
    deliver(published)
    assert told(published)["A"][0]


def test_what_nobody_publishes_may_be_anybody_s(published):
    append(published.table, rows("1"))
    assert told(published)["A"][0]
    commit_at(published.table, an_hour_ago())
    append(published.table, rows("2"))
    assert {company: passed for company, (passed, _) in told(published).items()} == {"A": False, "B": False}
    assert "nobody publishes" in told(published)["B"][1]


def test_what_cannot_be_told_is_not_well(published):
    shutil.rmtree(published.table)
    passed, said = told(published)["A"]
    assert not passed
    assert "cannot be told: no Delta table at" in said
