"""quarantine: the rows that could not be applied."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import (
    Feed,
    Home,
    Json,
    beside,
    console,
    err,
    opened,
    require_writable,
    stop_in_time,
    write_json,
)
from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from lpm_stream.control.quarantine import Entry
    from lpm_stream.stream import Stream

app = typer.Typer(help="Rows that could not be applied: they wait here with their reason.", no_args_is_help=True)

Company = Annotated[str | None, typer.Option(help="Only this company's rows; '' are those that name no company.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids, or their first digits, as list shows them.")]
All = Annotated[bool, typer.Option("--all", help="All rows, or with --company all of that company.")]

_ID_DIGITS = 12


@app.command("list")
def list_(
    company: Company = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many rows.")] = 50,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """List rows with their reasons, the oldest first."""
    from lpm_stream.control import quarantine

    with opened(home, feed, create=False) as stream:
        found = quarantine.entries(stream.store, stream.spec.name, company, limit=limit)
        counts = quarantine.counts(stream.store, stream.spec.name)
    if json_file:
        write_json(json_file, found)
        return
    table = Table("id", "company", "version", "since", "refused by", "reason", box=None, header_style="bold")
    for entry in found:
        table.add_row(
            entry.id[:_ID_DIGITS],
            Text(entry.row.company or "(none)"),
            str(entry.row.version),
            f"{entry.created_at:%Y-%m-%dT%H:%M:%SZ}",
            "the contract" if entry.row.stage == "publish" else "the database",
            Text(entry.row.reason),
        )
    console.print(table)
    held = sum(counts.values()) if company is None else counts.get(company, 0)
    err.print(f"{len(found):,} of {held:,} rows in quarantine", highlight=False)


@app.command()
def show(
    entry_id: Annotated[str, typer.Argument(help="The row's id, or its first digits.")],
    home: Home = None,
    feed: Feed = None,
) -> None:
    """Show one row as it was refused: a call record."""
    with opened(home, feed, create=False) as stream:
        [entry] = _chosen(stream, [entry_id], None, everything=False)
    content = {
        "id": entry.id,
        "company": entry.row.company,
        "version": entry.row.version,
        "refused_by": entry.row.stage,
        "reason": entry.row.reason,
        "since": entry.created_at.isoformat(),
        "row": json.loads(entry.row.payload),
    }
    console.print_json(data=content)


@app.command()
def replay(
    ids: Ids = None,
    company: Company = None,
    everything: All = False,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Deliver what the table holds of these rows now; a row corrected, moved or deleted since stays so."""
    from lpm_stream.delivery.replay import replay_all

    stop = stop_in_time()
    with opened(home, feed, create=False) as stream:
        require_writable(json_file)
        chosen = _chosen(stream, ids, company, everything=everything)
        done = replay_all(stream, chosen, go_on=lambda: not stop.is_set())
    if json_file:
        write_json(json_file, done)
    nobodys = sum(not entry.row.company for entry in chosen)
    for one in done:
        if one.problem:
            err.print(Text(f"company {one.company!r}: {one.problem}", style="red"), soft_wrap=True)
            continue
        beside(json_file).print(
            Text(
                f"company {one.company!r}: {one.applied:,} delivered, {one.superseded:,} superseded, "
                f"{one.refused:,} still refused"
            )
        )
    if nobodys:
        err.print(f"{nobodys:,} rows name no company: once the table is corrected, discard them", highlight=False)
    if nobodys or stop.is_set() or any(one.refused or one.problem for one in done):
        raise typer.Exit(1)


@app.command()
def discard(
    ids: Ids = None, company: Company = None, everything: All = False, home: Home = None, feed: Feed = None
) -> None:
    """Remove rows from quarantine for good."""
    from lpm_stream.control import quarantine

    with opened(home, feed, create=False) as stream:
        chosen = _chosen(stream, ids, company, everything=everything)
        removed = quarantine.discard(stream.store, stream.spec.name, chosen)
    console.print(f"{removed:,} rows discarded", highlight=False)


def _chosen(stream: "Stream", ids: list[str] | None, company: str | None, *, everything: bool) -> "list[Entry]":
    """The entries that a command is about.

    Raises:
        LpmStreamError: if an id names none or several, or neither ids nor --all are given.
    """
    from lpm_stream.control import quarantine

    if not ids and not everything:
        raise LpmStreamError("say which rows: their ids (lpm-stream quarantine list), or --all")
    if not ids:
        return quarantine.entries(stream.store, stream.spec.name, company)
    chosen = []
    for one in ids:
        found = quarantine.entries(stream.store, stream.spec.name, company, id_prefix=one, limit=2)
        if len(found) != 1:
            which = "several rows" if found else "no row"
            raise LpmStreamError(f"id {one!r} is that of {which} in quarantine; see lpm-stream quarantine list")
        chosen += found
    return chosen
