"""Commit to applied at 200 changes/s for 5 companies: through the relay, and through Dagster's sensors."""

import json
import math
import shutil
from pathlib import Path

from bench.commands import relaying, run
from bench.measure import Measure
from lpm_stream.control import ledger
from lpm_stream.control.latency import Latencies
from lpm_stream.feed.load import load_feeds
from lpm_stream.settings import Settings
from lpm_stream.stream import open_stream

SECONDS = "30"
TRAFFIC = ("--rate", "200", "--companies", "5", "--for", SECONDS)


def measure(home: Path) -> list[Measure]:
    """Runs the relay under traffic, then the demo."""
    shutil.rmtree(home, ignore_errors=True)
    relay = _relay(home / "relay")
    result = home / "demo.json"
    run("demo", *TRAFFIC, "--port", "3123", "--json", str(result), home=home / "demo")
    demo = json.loads(result.read_text(encoding="utf-8"))
    sensors = demo["latency_s"]
    return [
        Measure("relay: latency p50", relay["p50"] or math.inf, "s", 0.3),
        Measure("relay: latency p99", relay["p99"] or math.inf, "s", 1),
        Measure("Dagster sensors: latency p50", sensors["p50"], "s", 1.5),
        Measure("Dagster sensors: latency p99", sensors["p99"], "s", 7),
        Measure("Dagster sensors: committed", demo["committed"], "changes"),
        Measure("Dagster sensors: delivered", demo["delivered"], "changes"),
    ]


def _relay(home: Path) -> dict[str, float | None]:
    run("simulate", "--for", "0.1", "--companies", "5", home=home)  # so that the table is there
    run("publish", home=home)
    run("deliver", home=home)
    before = _latencies(home)  # rows that waited for the relay to start say nothing about it
    with relaying(home):
        run("simulate", *TRAFFIC, home=home)
    run("publish", home=home)
    run("deliver", home=home)
    run("verify", home=home)
    return _latencies(home).since(before).summary()


def _latencies(home: Path) -> Latencies:
    everything = Latencies()
    with open_stream(Settings.load(home), next(iter(load_feeds().values()))) as stream:
        for latencies in ledger.read(stream.store, stream.spec.name).values():
            everything.merge(latencies)
    return everything
