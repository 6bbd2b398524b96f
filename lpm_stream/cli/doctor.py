"""doctor: whether everything that a stream needs is there and works."""

from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, err, the_feed, write_json
from lpm_stream.settings import Settings

if TYPE_CHECKING:
    from lpm_stream.doctor.outcome import Outcome

_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


def doctor(home: Home = None, feed: Feed = None, json_file: Json = None) -> None:
    """Look at every part in order: table, hub, control store, databases, legacy files, alerts, Dagster.

    It delivers nothing, sends nothing, and goes on behind what has failed. Exit code 1 if something has.
    """
    from lpm_stream.doctor.run import doctor as look

    found: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("company databases", total=None)
        settings = Settings.load(home)
        spec = the_feed(feed, settings.home)
        for outcome in look(settings, spec, lambda done, of: bar.update(task, completed=done, total=of)):
            found.append(outcome)
            if not json_file:
                _print(outcome)
    failed = sum(one.verdict == "failed" for one in found)
    if json_file:
        write_json(json_file, found)
    else:
        console.print(
            f"{failed} of {len(found)} parts have failed" if failed else "nothing has failed", highlight=False
        )
    if failed:
        raise typer.Exit(1)


def _print(outcome: "Outcome") -> None:
    line = Text(f"{outcome.verdict:<8}", style=_STYLES[outcome.verdict])
    console.print(line.append(f"{outcome.part}: {outcome.what}", style="not bold default"), soft_wrap=True)
    if outcome.fix:
        console.print(Text(f"        fix: {outcome.fix}"), soft_wrap=True)
