"""The checks that the control store answers: parked, quarantined, latency."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from lpm_stream.checks.result import MOST_EXAMPLES, Result, Value, severity
from lpm_stream.control import ledger, parking, quarantine, registry
from lpm_stream.control.latency import Latencies
from lpm_stream.stream import Stream


def not_parked(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:
    """Whether companies receive their changes; one that a backfill holds is meant to wait."""
    spec = stream.spec
    parked = parking.read_parked(stream.store, spec.name)
    paused = registry.paused(stream.store)
    for company in companies:
        state = parked.get(company)
        if state is None:
            yield Result("not_parked", company, True, severity(spec, "not_parked"), "not parked")
            continue
        seconds = (now - state.since).total_seconds()
        values: dict[str, Value] = {
            "parked_since": state.since,
            "parked_seconds": round(max(seconds, 0.0), 3),
            "kind": state.kind,
            "changes_waiting": state.waiting,
            "attempts": state.attempts,
            "next_try_at": state.next_try_at,
        }
        passed = (
            company in paused
            or state.kind == "held"
            or (state.kind in ("fault", "lacking") and seconds <= spec.checks.grace_seconds)
        )
        what = f"parked since {state.since:%Y-%m-%dT%H:%M:%SZ} ({state.kind}): {state.reason}"
        failure = f"it is parked ({state.kind})"
        yield Result("not_parked", company, passed, severity(spec, "not_parked"), what, values, failure=failure)


def nothing_quarantined(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:  # noqa: ARG001
    """Whether rows of companies wait in quarantine: more than the feed allows for."""
    spec = stream.spec
    counts = quarantine.counts(stream.store, spec.name)
    for company in companies:
        count = counts.get(company, 0)
        found = quarantine.entries(stream.store, spec.name, company, limit=MOST_EXAMPLES) if count else []
        what = "nothing in quarantine"
        if count:
            what = f"{count:,} rows in quarantine: lpm-stream quarantine list shows why"
        yield Result(
            "nothing_quarantined",
            company,
            count <= spec.checks.quarantined_rows,
            severity(spec, "nothing_quarantined"),
            what,
            {"rows": count},
            tuple(_example(spec.primary_key, entry) for entry in found),
            failure="rows are in quarantine",
        )


def _example(key: Sequence[str], entry: quarantine.Entry) -> dict[str, str]:
    """Without the reason: a database's own words may quote the row."""
    row: Any = json.loads(entry.row.payload)
    return {
        "key": ", ".join(str(row.get(name)) for name in key),
        "stage": entry.row.stage,
        "version": str(entry.row.version),
        "since": entry.created_at.isoformat(timespec="seconds"),
        "id": entry.id[:12],
    }


def latency_slo(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:
    """Whether changes arrive within the feed's SLO at p99; without traffic there is nothing to blame.

    What waited for a company that was parked or paused is left out: other checks and alerts tell of that.
    """
    spec = stream.spec
    window = timedelta(seconds=spec.checks.latency_window_seconds)
    received = ledger.read(stream.store, spec.name, now - window)
    promised = registry.slos(stream.store)
    for company in companies:
        latencies, slo_seconds = received.get(company, Latencies()), promised.get(company, spec.slo_seconds)
        streamed = latencies.streamed()
        p99, waited = streamed.quantile(0.99), latencies.changes - streamed.changes
        summary = {f"{name}_seconds": value for name, value in streamed.summary().items() if value is not None}
        values = {
            "changes": latencies.changes,
            **summary,
            "changes_that_waited": waited,
            "slo_seconds": slo_seconds,
            "stretch_seconds": spec.checks.stretch_seconds,
            "within_stretch": p99 is None or p99 <= spec.checks.stretch_seconds,
        }
        passed = p99 is None or p99 <= slo_seconds
        what = f"no traffic in the last {window.total_seconds():g} s"
        if p99 is not None:
            what = f"p99 {p99:.3g} s over {streamed.changes:,} changes; promised are {slo_seconds:g} s"
        if waited:
            what += f"; {waited:,} more waited while it was parked or paused"
        failure = f"p99 is more than the {slo_seconds:g} s that are promised"
        yield Result("latency_slo", company, passed, severity(spec, "latency_slo"), what, values, failure=failure)
