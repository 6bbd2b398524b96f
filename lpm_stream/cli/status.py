"""status: how the stream is doing, once or live."""

import shlex
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, opened, write_json

if TYPE_CHECKING:
    from lpm_stream.status import CompanyStatus, Status

_STATE_STYLES = {
    "streaming": "green",
    "idle": "dim",
    "waiting": "yellow",
    "parked": "bold red",
    "paused": "yellow",
}
_SHOWN = 40  # companies; those with something to say come first


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Stay and keep the screen up to date.")] = False,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Show versions, workers, and per company: delivered, lag, latency, state."""
    from lpm_stream.status import read_status

    with opened(home, feed, create=False) as stream:
        if json_file:
            write_json(json_file, read_status(stream))
        elif not watch:
            console.print(rendered(read_status(stream)))
        else:
            with Live(console=console, auto_refresh=False, screen=True) as live:
                while True:
                    live.update(rendered(read_status(stream)), refresh=True)
                    time.sleep(1)


def rendered(now: "Status") -> RenderableType:
    """A status for the terminal."""
    table = Table(title=f"feed {now.feed}", title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("company", overflow="fold")
    for heading in ("delivered", "lag now", "p50", "p99", "version"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    ranked = sorted(now.companies, key=lambda one: (one.parked is None, not one.quarantined, -one.changes))
    for company in ranked[:_SHOWN]:
        table.add_row(*_row(company))
    if len(ranked) > _SHOWN:
        table.caption = f"and {len(ranked) - _SHOWN:,} more"
    return Group(_summary(now), table, *_notes(now))


def _row(company: "CompanyStatus") -> tuple[RenderableType, ...]:
    state = Text(company.state, style=_STATE_STYLES[company.state])
    if company.parked:
        since = company.parked.since.strftime("%Y-%m-%dT%H:%M:%SZ")
        next_try = company.parked.next_try_at.strftime("%H:%M:%SZ")
        waiting = f", {company.parked.waiting:,} changes waiting" if company.parked.waiting else ""
        state.append(f" since {since}, next try {next_try}{waiting}: {company.parked.reason}", style="red")
    if company.backfill:
        done = f"{company.backfill.rows:,} of {company.backfill.total_rows:,} rows"
        state.append(f" being loaded from version {company.backfill.version}: {done}", style="yellow")
    if company.lacks_before is not None:
        state.append(
            f" lacks changes up to version {company.lacks_before}, from before it was registered: "
            f"lpm-stream backfill {shlex.quote(company.company)}",
            style="yellow",
        )
    if company.quarantined:
        state.append(f" {company.quarantined:,} in quarantine", style="yellow")
    return (
        Text(company.company),
        f"{company.changes:,}",
        _seconds(company.lag_seconds),
        _seconds(company.p50),
        _seconds(company.p99),
        str(company.version) if company.version >= 0 else "-",
        state,
    )


def _summary(now: "Status") -> Text:
    behind = max(now.newest_version - now.published_version, 0)
    return Text(
        f"{now.at:%Y-%m-%dT%H:%M:%SZ}  published version {now.published_version} ({behind} behind)  "
        f"hub {now.hub_messages:,} messages waiting\n"
        f"publisher {now.publisher or 'none running'}  deliverer {now.deliverer or 'none running'}"
    )


def _notes(now: "Status") -> list[Text]:
    notes = [Text(problem, style="red") for problem in now.problems]
    if now.held_columns:
        notes.append(Text(f"held back, not in the contract: {', '.join(now.held_columns)}", style="yellow"))
    if now.unknown:
        named = ", ".join(f"{one.company!r} ({one.changes:,} changes)" for one in now.unknown[:5])
        notes.append(Text(f"{len(now.unknown):,} unregistered companies in the stream: {named}", style="yellow"))
    return notes


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
