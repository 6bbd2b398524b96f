import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpm_stream.control.latency import Latencies

TIMES = st.lists(
    st.tuples(st.floats(0.001, 1e7), st.integers(1, 1_000_000)),
    min_size=1,
    max_size=30,
)


def counted(times: list[tuple[float, int]]) -> Latencies:
    latencies = Latencies()
    for seconds, changes in times:
        latencies.add(seconds, changes)
    return latencies


def exact(times: list[tuple[float, int]], share: float) -> float:
    wanted = share * sum(changes for _, changes in times)
    seen = 0
    for seconds, changes in sorted(times):
        seen += changes
        if seen >= wanted:
            return seconds
    raise AssertionError


@given(TIMES, st.sampled_from([0.0, 0.01, 0.5, 0.95, 0.99, 1.0]))
def test_quantiles_are_right_to_two_percent(times, share):
    found = counted(times).quantile(share)
    right = exact(times, share)
    assert found is not None
    assert right * (1 - 1e-9) <= found <= right * 1.02 * (1 + 1e-9)


@given(TIMES, TIMES)
def test_merging_counts_both(one, other):
    merged = counted(one)
    merged.merge(counted(other))
    assert merged == counted(one + other)
    assert merged.changes == sum(changes for _, changes in one + other)


@given(TIMES)
def test_text_keeps_everything(times):
    latencies = counted(times)
    again = Latencies.from_json(latencies.to_json())
    assert again == latencies
    assert again.summary() == latencies.summary()


@given(TIMES, TIMES)
def test_what_came_since_an_earlier_state(earlier, later):
    state = counted(earlier)
    total = counted(earlier + later)
    since = total.since(state)
    assert since.changes == counted(later).changes
    longest = max(seconds for seconds, _ in later)
    assert since.quantile(0.5) == pytest.approx(counted(later).quantile(0.5), rel=0.021)
    assert longest * (1 - 1e-9) <= since.longest <= longest * 1.02 * (1 + 1e-9)


@given(TIMES, TIMES)
def test_what_waited_is_told_apart(streamed, waited):
    both = counted(streamed)
    for seconds, changes in waited:
        both.add(seconds, changes, waited=True)
    again = Latencies.from_json(both.to_json())
    assert again == both
    assert again.changes == sum(changes for _, changes in streamed + waited)
    assert again.streamed().buckets == counted(streamed).buckets
    assert again.since(counted(streamed)).streamed().changes == 0
    twice = counted(streamed)
    twice.merge(both)
    assert twice.streamed().changes == 2 * counted(streamed).changes


def test_nothing_counted_has_no_quantiles():
    assert Latencies().quantile(0.5) is None
    assert Latencies().summary() == {"p50": None, "p95": None, "p99": None, "max": None}


@pytest.mark.parametrize("seconds", [0.0, -5.0, -math.inf, 1e-9])
def test_a_clock_that_runs_behind_counts_as_no_time(seconds):
    latencies = Latencies()
    latencies.add(seconds, 3)
    assert latencies.summary() == {"p50": 0.001, "p95": 0.001, "p99": 0.001, "max": 0.001}
