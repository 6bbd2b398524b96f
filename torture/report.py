"""What the suite says of a run, and keeps of it."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from torture.fault import Finding

_HEADINGS = ("times", "lost", "doubled", "p99 before", "p99 with it", "rise", "status", "log", "took")


@dataclass(frozen=True)
class Run:
    """A run of the suite, or what there is of it yet.

    Attributes:
        form: short or long.
        seed: of its random moments.
        commit: what was tried, as git names it.
        complete: whether it came to its end.
        seconds: how long it took.
        findings: one for each fault.
    """

    form: str
    seed: int
    commit: str
    complete: bool
    seconds: float
    findings: Sequence[Finding]

    @property
    def good(self) -> bool:
        """Whether something was tried, all of what was to be, and nothing went wrong."""
        return self.complete and bool(self.findings) and all(one.good for one in self.findings)


def current_commit() -> str:
    """The commit that is checked out, `-dirty` behind it if files differ; empty outside of a repository."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip()


def write(run: Run, path: Path) -> None:
    """Writes it as JSON, in place of what was there."""
    path.parent.mkdir(exist_ok=True)
    findings = [asdict(one) | {"rise": one.rise, "good": one.good} for one in run.findings]
    content = asdict(run) | {"seconds": round(run.seconds, 1), "good": run.good, "findings": findings}
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def show(run: Run, console: Console) -> None:
    """Prints it as a table."""
    table = Table(title="lpm_stream torture", title_justify="left")
    table.add_column("fault")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for one in run.findings:
        table.add_row(one.fault, *_cells(one), style=None if one.good else "red")
        if one.problem:
            table.add_row(f"  {one.problem}", style="red")
    end = "" if run.complete else ", CUT OFF"
    console.print(table)
    summary = f"{run.form} form, seed {run.seed}, commit {run.commit}, {run.seconds:.0f} s in all{end}"
    console.print(summary, highlight=False, soft_wrap=True)


def _cells(one: Finding) -> Sequence[str]:
    return (
        str(one.times),
        *("" if count is None else str(count) for count in (one.lost, one.doubled)),
        *(_seconds(p99) for p99 in (one.calm_p99, one.p99)),
        _rise(one),
        *("" if shown is None else "shown" if shown else "-" for shown in (one.in_status, one.in_log)),
        f"{one.seconds:.0f} s",
    )


def _rise(one: Finding) -> str:
    """What is judged; of other faults it tells how long they lasted."""
    if one.most_rise is None:
        return ""
    return f"{'?' if one.rise is None else format(one.rise, '+.0%')} of {one.most_rise:.0%}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
