"""Inflicts one fault on a running stream, and counts."""

import time
from collections.abc import Mapping

from lpm_stream.control.latency import Latencies
from torture.fault import Fault, Finding, Sizes
from torture.world import World


def suffer(world: World, fault: Fault, sizes: Sizes) -> Finding:
    """Measures in peace, inflicts the fault, measures again, and compares the table with the databases."""
    world.ensure_running()
    before = world.latencies()
    time.sleep(sizes.calm_seconds)
    calm = world.latencies()
    world.since = calm
    said = len(world.log)
    struck = fault.strike(world, sizes)
    after = struck.measured or world.latencies()
    world.ensure_running()
    lost, doubled = _lost_and_doubled(world.verified())
    return Finding(
        fault.name,
        struck.times,
        lost,
        doubled,
        calm_p99=_p99(calm, before, struck.victims),
        p99=_p99(after, world.since, struck.victims),
        most_rise=fault.most_rise if sizes.thorough else None,
        in_status=struck.in_status,
        in_log=struck.in_log in world.log[said:],
    )


def _lost_and_doubled(report: Mapping[str, object]) -> tuple[int, int]:
    """Rows of companies that the registry has lost are lost, too."""
    companies, unregistered = report["companies"], report["unregistered"]
    assert isinstance(companies, list)
    assert isinstance(unregistered, int)
    counts = [one["counts"] for one in companies]
    lost = unregistered + sum(one["missing"] + one["different"] for one in counts)
    doubled = sum(one["duplicated"] + one["extra"] + one["misrouted"] for one in counts)
    return lost, doubled


def _p99(now: Mapping[str, Latencies], before: Mapping[str, Latencies], without: frozenset[str]) -> float | None:
    healthy = Latencies()
    for company, latencies in now.items():
        if company not in without:
            healthy.merge(latencies.since(before.get(company, Latencies())))
    return healthy.summary()["p99"]
