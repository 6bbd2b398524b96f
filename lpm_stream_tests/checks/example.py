"""A feed with daily legacy files, of the days before today: the checks look at the clock."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from lpm_stream.checks.result import Result
from lpm_stream.checks.run import run_checks
from lpm_stream.feed.checks import CheckName
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.names import period_at
from lpm_stream.stream import Stream
from lpm_stream_tests import example
from lpm_stream_tests.legacy.example import FORM, put

_DAILY = FORM.model_copy(update={"period": "daily", "start_format": "%Y%m%d", "time_zone": "UTC"})
SPEC = example.SPEC.model_copy(update={"legacy": _DAILY})
YESTERDAY = period_at(_DAILY, datetime.now(UTC) - timedelta(days=1))
DAY = period_at(_DAILY, YESTERDAY.start - timedelta(hours=1))  # the grace of its file is over


def with_legacy(**changes: Any) -> FeedSpec:
    """The feed with another format."""
    return SPEC.model_copy(update={"legacy": _DAILY.model_copy(update=changes)})


def rows(*keys: str, company: str = "A", **columns: Any) -> pl.DataFrame:
    """Orders of the day."""
    return example.orders(keys, company, ordered_at=DAY.start + timedelta(hours=5), **columns)


def put_files(stream: Stream, *keys: str, company: str = "A") -> str:
    """A company's files of both days; the earlier has these orders. Returns that one's path."""
    put(stream, company, rows(company=company), YESTERDAY)
    return put(stream, company, rows(*keys, company=company), DAY)


def checked(stream: Stream, name: CheckName) -> dict[str, Result]:
    """Company to the result of one check."""
    return {one.company: one for one in run_checks(stream, names=[name])}


def passed(stream: Stream, name: CheckName) -> dict[str, bool]:
    """Company to whether one check passed."""
    return {company: one.passed for company, one in checked(stream, name).items()}
