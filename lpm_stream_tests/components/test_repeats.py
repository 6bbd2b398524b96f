from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from lpm_stream.checks.result import Result
from lpm_stream.components.keys import health_key
from lpm_stream.components.repeats import Reported, is_news, newest_evaluations
from lpm_stream.control import registry
from lpm_stream_tests.example import SPEC

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("passed_before", "passes", "minutes", "active", "expected"),
    [
        (True, False, 5, False, True),
        (False, True, 5, False, True),
        (True, True, 55, True, False),
        (True, True, 59, True, True),
        (False, False, 55, False, False),
        (False, False, 59, False, True),
        (True, True, 23 * 60, False, False),
        (True, True, 24 * 60, False, True),
    ],
)
def test_news_are_new_verdicts_and_old_ones_now_and_then(passed_before, passes, minutes, active, expected):
    result = Result("fresh", "A", passes, "ERROR", "")
    reported = {("fresh", "A"): Reported(passed_before, NOW - timedelta(minutes=minutes))}
    assert is_news(result, reported, {"A"} if active else set(), NOW) is expected
    assert is_news(result, {}, set(), NOW)


def test_a_schedule_repeats_nothing_and_a_person_gets_everything(defs, instance, stream):
    for company in "AB":
        registry.register(stream.store, company)
    job = defs.get_job_def("check_orders")
    config = {"ops": {"check_orders_companies": {"config": {"checks": ["not_parked"]}}}}
    scheduled = {"dagster/schedule_name": "check_orders_often"}

    def reports(tags: dict[str, str]) -> int:
        result = job.execute_in_process(config, instance=instance, tags=tags)
        events = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        return len(events)

    assert reports(scheduled) == 2
    assert reports(scheduled) == 0
    assert reports({}) == 2
    registry.register(stream.store, "C")
    assert reports(scheduled) == 1
    assert {key: one.passed for key, one in newest_evaluations(instance, health_key(SPEC)).items()} == {
        ("not_parked", company): True for company in "ABC"
    }
