"""What the suite says in the end."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from torture.fault import Finding


def report(findings: Sequence[Finding], path: Path) -> None:
    """Prints the table, and writes the same as JSON."""
    table = Table(title="lpm_stream torture", title_justify="left")
    table.add_column("fault")
    for heading in ("times", "lost", "doubled", "p99 before", "p99 with it", "status", "log"):
        table.add_column(heading, justify="right")
    for one in findings:
        cells = (str(one.times), str(one.lost), str(one.doubled), _seconds(one.calm_p99), _seconds(one.p99))
        table.add_row(one.fault, *cells, *("shown" if shown else "-" for shown in (one.in_status, one.in_log)))
        if one.problem:
            table.add_row(f"  {one.problem}", style="red")
    Console(width=150).print(table)
    path.parent.mkdir(exist_ok=True)
    content = [asdict(one) | {"good": one.good} for one in findings]
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
