"""What a month of streaming leaves in Dagster's storage: a shortened one, reported by the sensors' own code."""

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from bench.measure import Measure
from lpm_stream.components import reports
from lpm_stream.components.events import company_metadata, company_tags
from lpm_stream.components.keys import company_key
from lpm_stream.components.trimming import trim
from lpm_stream.control.latency import Latencies
from lpm_stream.control.progress import Delivered
from lpm_stream.feed.load import load_feeds
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.settings import Settings

COMPANIES = 50  # that stream all the time
WINDOWS = 10


def measure(directory: Path) -> list[Measure]:
    """Reports companies for some windows on SQLite, trims, and does it again."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    spec = load_feeds()["tdr"]
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        empty = _bytes(directory)
        events = _report(instance, spec)
        full = _bytes(directory)
        begun = time.perf_counter()
        trim(instance, timedelta(0), timedelta(0))
        seconds = time.perf_counter() - begun
        _report(instance, spec)
        again = _bytes(directory)
    an_event = (full - empty) / events
    kept = Settings().keep_dagster_events / timedelta(seconds=spec.reporting_window_seconds) * COMPANIES
    return [
        Measure("housekeeping: a company's report", an_event, "bytes"),
        Measure("housekeeping: reports that are kept, 50 companies streaming", an_event * kept / 1e9, "GB", 2),
        Measure("housekeeping: trimmed", events / seconds, "events/s"),
        Measure("housekeeping: files, filled again after a trim", again / full, "times as large", 1.2),
    ]


def _report(instance: dg.DagsterInstance, spec: FeedSpec) -> int:
    """Reports each company once a window; returns the number of events."""
    window = timedelta(seconds=spec.reporting_window_seconds)
    begun = datetime.now(UTC)
    cursor = reports.Cursor(since=begun.replace(second=0, microsecond=0))
    received: dict[str, dict[datetime, Latencies]] = {f"COMPANY{number:04}": {} for number in range(COMPANIES)}
    events = 0
    for number in range(WINDOWS):
        now = begun + number * window
        for minutes in received.values():
            latencies = minutes.setdefault(now.replace(second=0, microsecond=0), Latencies())
            for change in range(100):
                latencies.add(0.3 + change / 100, 9)
        chosen, cursor = reports.choose(cursor, received, now, window, COMPANIES)
        for one in chosen:
            metadata = company_metadata(one.rows, one.latencies, Delivered(1, number, 0, number, now, now))
            event = dg.AssetMaterialization(
                company_key(spec), partition=one.company, metadata=metadata, tags=company_tags(spec)
            )
            instance.report_runless_asset_event(event)
        events += len(chosen)
    return events


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
