from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.components.tally import Tally
from lpm_stream.errors import LpmStreamError
from lpm_stream.publish.drain import Published

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = timedelta(seconds=30)
DRAIN = Published(version=9, versions=2, changes=10, messages=4, bytes=1000, quarantined=1)


def test_drains_add_up():
    tally = Tally.read(Tally.read(None).plus(DRAIN).model_dump_json()).plus(DRAIN)
    assert tally == Tally(versions=4, changes=20, messages=8, bytes=2000, quarantined=2)


def test_the_first_report_is_due_at_once():
    assert Tally().plus(DRAIN).is_due(NOON, WINDOW)


def test_a_report_waits_for_its_window_and_for_news():
    reported = Tally(reported_at=NOON)
    assert not reported.is_due(NOON + WINDOW, WINDOW)
    assert not reported.plus(DRAIN).is_due(NOON + WINDOW / 2, WINDOW)
    assert reported.plus(DRAIN).is_due(NOON + WINDOW, WINDOW)


def test_a_cursor_of_another_kind_is_a_clear_error():
    with pytest.raises(LpmStreamError, match="reset it"):
        Tally.read("17")
