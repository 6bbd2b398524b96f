"""audit: who did what when."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, err, instant, opened, write_json
from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from lpm_stream.control.audit import Entry, Verified


def audit(
    verify: Annotated[
        bool, typer.Option("--verify", help="Check instead that no entry was changed or removed; 1 if one was.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(help="With --verify: a head that it printed before; shows whether entries were cut off."),
    ] = None,
    company: Annotated[str | None, typer.Option(help="Only what was done to this company.")] = None,
    since: Annotated[str | None, typer.Option(help="Only since an instant like 2026-01-31T12:00:00Z.")] = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Show who did what when, the oldest first.

    Each entry carries a hash of itself and of the one before. Keep what --verify prints where the control store's
    administrators cannot change it, and hand it to the next --verify with --head.
    """
    from lpm_stream.control import audit as log

    if head is not None and not verify:
        raise LpmStreamError("--head goes with --verify")
    if verify and (company is not None or since is not None):
        raise LpmStreamError("--verify is of the whole audit: leave --company and --since away")
    kept = None if head is None else log.Head.parse(head)
    with opened(home, feed, create=False) as stream:
        if verify:
            _tell(log.verify(stream.store, kept), json_file)
            return
        found = log.entries(stream.store, company=company, since=instant(since, "--since"))
    if json_file:
        write_json(json_file, found)
        return
    _print(found)


def _tell(verified: "Verified", json_file: Json) -> None:
    if json_file:
        write_json(json_file, {"head": str(verified.head), "problem": verified.problem or None})
    elif verified.problem:
        console.print(Text(f"NOT whole: {verified.problem}", style="bold red"), soft_wrap=True)
    else:
        console.print(Text(f"whole: {verified.head.number:,} entries", style="bold green"))
        err.print("the head, to be kept elsewhere:", highlight=False)
        console.print(Text(f"{verified.head}"), soft_wrap=True)
    if verified.problem:
        raise typer.Exit(1)


def _print(found: "list[Entry]") -> None:
    table = Table("#", "when", "who", "what", "company", "details", box=None, header_style="bold")
    for one in found:
        said = ", ".join(f"{name} {value}" for name, value in one.details.items() if value is not None)
        when = f"{one.at:%Y-%m-%dT%H:%M:%SZ}"
        table.add_row(str(one.number), when, Text(one.who), one.action, Text(one.company or ""), Text(said))
    console.print(table)
