"""Runs all measurements, prints them beside their goals, and writes build/bench.json.

Exit code 1 if a goal is missed.
"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import backlog, housekeeping, hubs, latency, legacy, postgresql
from bench.measure import Measure

BUILD = Path("build")
PARTS = {
    "backlog": backlog.measure,
    "latency": latency.measure,
    "hubs": hubs.measure,
    "housekeeping": housekeeping.measure,
    "legacy": legacy.measure,
    "postgresql": postgresql.measure,
}


def main() -> None:
    """Measures the parts named on the command line, or all."""
    chosen = sys.argv[1:] or list(PARTS)
    measures: list[Measure] = []
    for name in chosen:
        measures += PARTS[name](BUILD / "bench" / name)
    table = Table(title="lpm_stream bench", title_justify="left")
    for heading in ("measure", "value", "goal", ""):
        table.add_column(heading)
    for one in measures:
        table.add_row(one.name, one.text, one.goal, one.verdict)
    Console(width=140).print(table)
    BUILD.mkdir(exist_ok=True)
    content = {one.name: {"value": one.value, "unit": one.unit, "goal": one.goal} for one in measures}
    (BUILD / "bench.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(one.verdict == "MISSED" for one in measures))


if __name__ == "__main__":
    main()
