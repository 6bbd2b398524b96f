"""status: how the stream is doing, once or live."""

import shlex
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, opened, stop_on_signals, write_json
from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from lpm_stream.status import CompanyStatus, Status
    from lpm_stream.stream import Stream

_WORTH_SAYING = 100  # messages; fewer may be those of this moment
_STATE_STYLES = {
    "streaming": "green",
    "idle": "dim",
    "waiting": "yellow",
    "parked": "bold red",
    "paused": "yellow",
}
_SHOWN = 40  # companies; those with something to say come first
_LINES_BESIDE = 12  # of the screen: what is not a company
_LONGEST_NAME = 40  # characters of an id on a screen of one line a company
_LOOK_SECONDS = 2.0


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Stay and keep the screen up to date.")] = False,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Show versions, workers, and per company: delivered, lag, latency, state."""
    from lpm_stream.status import read_status

    with opened(home, feed, create=False, needs_hub=False) as stream:
        if json_file:
            write_json(json_file, read_status(stream))
        elif watch:
            _watch(stream)
        else:
            console.print(rendered(read_status(stream)))


def _watch(stream: "Stream") -> None:
    """Looks again and again until Ctrl-C; what cannot be read now may be there at the next look."""
    from lpm_stream.status import read_status

    stop = stop_on_signals()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while not stop.is_set():
            try:
                screen = rendered(read_status(stream), max(console.height - _LINES_BESIDE, 1), one_line=True)
            except LpmStreamError as error:
                screen = Text(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {error}", style="red")
            live.update(screen, refresh=True)
            stop.wait(_LOOK_SECONDS)


def rendered(now: "Status", at_most: int = _SHOWN, *, one_line: bool = False) -> RenderableType:
    """A status for the terminal: companies that need attention first, then those that received something last.

    Args:
        now: the status.
        at_most: so many companies.
        one_line: whether each is to take a single line, cut off at the screen's edge.
    """
    table = Table(title=f"feed {now.feed}", title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.expand = one_line
    cut: OverflowMethod = "ellipsis" if one_line else "fold"
    table.add_column("company", overflow=cut, no_wrap=one_line, max_width=_LONGEST_NAME if one_line else None)
    for heading in ("delivered", "lag now", "p50", "p99", "version"):
        table.add_column(heading, justify="right", no_wrap=one_line)
    table.add_column("state", overflow=cut, no_wrap=one_line, ratio=1 if one_line else None)
    ranked = sorted(now.companies, key=_rank)
    for company in ranked[:at_most]:
        table.add_row(*_row(company))
    if len(ranked) > at_most:
        table.caption = f"and {len(ranked) - at_most:,} more"
    return Group(_summary(now), table, *_notes(now))


def _rank(company: "CompanyStatus") -> tuple[bool, bool, bool, float]:
    newest = company.applied_at.timestamp() if company.applied_at else 0.0
    return company.parked is None, not company.quarantined, not company.needs_attention, -newest


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
        f"hub {now.hub_messages:,} messages waiting{_where(now)}\n"
        f"publisher {now.publisher or 'none running'}  deliverer {now.deliverer or 'none running'}\n"
        f"{_counts(now)}"
    )


def _where(now: "Status") -> str:
    """Which partition has most of what waits, where that is not just what is in hand."""
    if now.hub_messages < _WORTH_SAYING:
        return ""
    most = max(now.hub_messages_of, key=lambda partition: now.hub_messages_of[partition])
    return f" ({now.hub_messages_of[most]:,} in partition {most})"


def _counts(now: "Status") -> str:
    states = Counter[str](company.state for company in now.companies)
    counts = [f"{states[state]:,} {state}" for state in _STATE_STYLES if states[state]]
    if quarantined := sum(company.quarantined > 0 for company in now.companies):
        counts.append(f"{quarantined:,} with rows in quarantine")
    return f"{len(now.companies):,} companies" + (f": {', '.join(counts)}" if counts else "")


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
