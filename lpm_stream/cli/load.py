"""backfill, resync: companies loaded from the table."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lpm_stream.cli.common import (
    Feed,
    Home,
    Json,
    beside,
    err,
    opened,
    require_writable,
    stop_in_time,
    write_json,
)

if TYPE_CHECKING:
    from lpm_stream.stream import Stream

Replace = Annotated[
    bool,
    typer.Option(
        "--replace", help="Build the table anew beside the old one, and swap: also for other column types."
    ),
]


def backfill(
    companies: Annotated[list[str], typer.Argument(help="The companies' ids.")],
    replace: Replace = False,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Load companies from the source table, while the stream goes on for everybody else."""
    with opened(home, feed, create=False) as stream:
        require_writable(json_file)
        _load(stream, companies, rebuild=replace, json_file=json_file)


def resync(
    company: Annotated[list[str] | None, typer.Option(help="Only load this company; may be repeated.")] = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Begin anew after a gap: set the cursor to the table's newest version and load the companies.

    With --company the cursor stays where it is, and only those companies are loaded: for what the hub has lost.
    """
    from lpm_stream.control import registry
    from lpm_stream.resync import begin_anew

    with opened(home, feed) as stream:
        require_writable(json_file)
        companies = company
        if companies is None:
            version = begin_anew(stream)
            err.print(f"the feed goes on behind version {version}; loading its companies", highlight=False)
            companies = registry.registered(stream.store, stream.spec.name)
        _load(stream, companies, rebuild=False, json_file=json_file)


def _load(stream: "Stream", companies: Sequence[str], *, rebuild: bool, json_file: Json) -> None:
    from lpm_stream.resync import load

    stop = stop_in_time()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        go_on, tell = (lambda: not stop.is_set()), partial(_tell, bar, task)
        done = list(load(stream, companies, rebuild=rebuild, go_on=go_on, tell=tell))
    if json_file:
        write_json(json_file, done)
    for one in done:
        if one.loaded is None:
            err.print(Text(f"company {one.company!r} is not loaded: {one.problem}", style="red"), soft_wrap=True)
            continue
        refused = f"; {one.loaded.refused:,} rows are in quarantine" if one.loaded.refused else ""
        what = f"{one.loaded.rows:,} rows at version {one.loaded.version}{refused}"
        beside(json_file).print(Text(f"company {one.company!r} is loaded: {what}"), soft_wrap=True)
    if len(done) < len(companies) or any(one.loaded is None for one in done):
        raise typer.Exit(1)


def _tell(bar: Progress, task: TaskID, company: str, rows: int, total: int) -> None:
    bar.update(task, completed=rows, total=total, description=company)
