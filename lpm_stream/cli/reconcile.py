"""reconcile, simulate-legacy: the legacy files against what was streamed."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, beside, console, instant, opened, write_json
from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from lpm_stream.legacy.report import Reconciliation
    from lpm_stream.legacy.simulate import Fault
    from lpm_stream.stream import Stream

_SECOND_LOOK_SECONDS = 2.0  # whether a fresh file still grows
FAULTS = ("missing-row", "extra-row", "changed-value", "truncated-file", "late-file")
_STYLES = {"passed": "green", "failed": "bold red", "late": "bold red", "waiting": "yellow", "unread": "yellow"}

Company = Annotated[str | None, typer.Option(help="Only this company.")]


def reconcile(
    company: Company = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only periods that end after this instant, ISO 8601; UTC where it has no zone."),
    ] = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Compare the legacy files with what was streamed, file by file and row by row.

    Exit code 1 if a file fails or is overdue, or could not be read. A file that still grows is left for later.
    """
    from lpm_stream.legacy.location import open_location
    from lpm_stream.legacy.reconcile import look, reconcile

    first = instant(since, "--since")
    with opened(home, feed, create=False) as stream, open_location(stream.settings) as location:
        chosen = _chosen(stream, company)
        listing = look(stream, location, datetime.now(UTC))
        if listing.growing:
            time.sleep(_SECOND_LOOK_SECONDS)
            listing = look(stream, location, datetime.now(UTC), listing)
        results = reconcile(stream, location, listing, datetime.now(UTC), companies=chosen, since=first)
    if json_file:
        write_json(json_file, {"results": results, "unrecognised": listing.unrecognised})
    else:
        _print(results, listing.unrecognised)
    if any(one.bad or one.verdict == "unread" for one in results):
        raise typer.Exit(1)


def simulate_legacy(
    company: Company = None,
    periods: Annotated[int, typer.Option(min=1, help="How many of the last finished periods.")] = 1,
    fault: Annotated[
        str | None, typer.Option(help=f"Of the last file of the first company: {', '.join(FAULTS)}.")
    ] = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Write legacy files from the source table, as the legacy system would; again: re-issued."""
    from lpm_stream.legacy.location import open_location
    from lpm_stream.legacy.simulate import write_recent

    wrong = chosen_fault(fault)
    with opened(home, feed, create=False) as stream, open_location(stream.settings) as location:
        written = write_recent(
            stream,
            location,
            _chosen(stream, company),
            periods,
            datetime.now(UTC),
            fault=wrong,
        )
    if json_file:
        write_json(json_file, written)
    for one in written:
        what = f"{one.path}: {one.rows:,} rows" if one.path else f"{one.company}: no file yet"
        beside(json_file).print(Text(f"{what}, with fault {one.fault}" if one.fault else what), soft_wrap=True)


def chosen_fault(name: str | None) -> "Fault | None":
    """The fault of that name.

    Raises:
        LpmStreamError: if there is no such fault.
    """
    if name is not None and name not in FAULTS:
        raise LpmStreamError(f"fault {name!r}: choose one of {', '.join(FAULTS)}")
    return cast("Fault | None", name)


def _chosen(stream: "Stream", company: str | None) -> list[str]:
    from lpm_stream.control import registry

    known = registry.registered(stream.store, stream.spec.name)
    if company is not None and company not in known:
        raise LpmStreamError(f"company {company!r} is not registered; lpm-stream companies list shows who is")
    return known if company is None else [company]


def _print(results: "list[Reconciliation]", unrecognised: tuple[str, ...]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("company", overflow="fold", min_width=8)
    table.add_column("from (UTC)", min_width=11)
    table.add_column("verdict", min_width=7)
    for heading in ("file", "table", "missing", "extra", "differ", "bad"):
        table.add_column(heading, justify="right")
    for one in results:
        faults = one.faults
        counts = (faults.missing, faults.extra, faults.different, faults.broken)
        table.add_row(
            Text(one.company),
            f"{one.period.start:%m-%d %H:%M}",
            Text(one.verdict, style=_STYLES[one.verdict]),
            f"{faults.rows_in_file:,}",
            f"{faults.rows_in_table:,}",
            *(Text(f"{count:,}", style="red" if count else "") for count in counts),
        )
    console.print(table)
    for one in results:
        _print_details(one)
    if unrecognised:
        console.print(f"{len(unrecognised):,} other files there are of no registered company, or named otherwise")


def _print_details(one: "Reconciliation") -> None:
    where = f"{one.company}: {one.file or one.period.start.isoformat()}"
    notes = [f"{count:,} {why.replace('_', ' ')}" for why, count in one.faults.explained.items()]
    if one.sooner:
        notes.append(f"the stream was {one.sooner.median:,.0f} s sooner, at the median")
    if one.problem:
        notes.insert(0, one.problem)
    if notes:
        console.print(Text(f"{where}: {'; '.join(notes)}"), soft_wrap=True)
    for kind, found in one.examples.items():
        for example in found:
            key = ", ".join(map(str, example.key))
            columns = f" in {', '.join(example.columns)}" if example.columns else ""
            console.print(Text(f"{where}: {kind}: {key}{columns}"), soft_wrap=True)
    for line in one.broken:
        console.print(Text(f"{where}: line {line.line} {line.reason}"), soft_wrap=True)
