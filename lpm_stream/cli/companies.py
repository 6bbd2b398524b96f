"""companies: who is served, from the first day to the last."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import Home, Json, console, err, opened_all, write_json
from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from lpm_stream.control.entries import Entry

app = typer.Typer(help="The companies that are served.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The company's id.")]

_NOTICED_SECONDS = 2.0  # until every deliverer has asked the registry again, with room to spare


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Those that were removed, too.")] = False,
    long: Annotated[bool, typer.Option("--long", "-l", help="With names, groups and states.")] = False,
    home: Home = None,
    json_file: Json = None,
) -> None:
    """List the registered companies."""
    from lpm_stream.control import entries
    from lpm_stream.control.registry_file import plain

    with opened_all(home, create=False) as streams:
        known = [
            entry
            for entry in entries.read_all(streams[0].store)
            if everything or entry.company.state != "offboarding"
        ]
    if json_file:
        write_json(json_file, [plain(entry.company) | {"state": entry.company.state} for entry in known])
    elif long:
        console.print(_table(known))
    else:
        for entry in known:
            console.print(Text(entry.company.id), soft_wrap=True)


def _table(known: "list[Entry]") -> Table:
    table = Table("company", "name", "state", "columns", "since", box=None, header_style="bold")
    for entry in known:
        company = entry.company
        state = company.state if entry.onboarded_at else "onboarding unfinished"
        since = f"{entry.registered_at:%Y-%m-%d}"
        table.add_row(Text(company.id), Text(company.name), state, ", ".join(company.groups), since)
    return table


@app.command()
def show(company: Id, home: Home = None, json_file: Json = None) -> None:
    """Show what is known of a company."""
    from lpm_stream.control import entries, registry
    from lpm_stream.control.registry_file import as_yaml, plain

    with opened_all(home, create=False) as streams:
        entry = entries.read(streams[0].store, company)
        lacking = [
            one.spec.name for one in streams if company in registry.to_load(streams[0].store, one.spec.name)
        ]
        lags = company in registry.to_apply(streams[0].store)
    if json_file:
        times = {"registered_at": entry.registered_at, "onboarded_at": entry.onboarded_at}
        write_json(json_file, plain(entry.company) | {"state": entry.company.state} | times)
        return
    console.print(Text(as_yaml([entry.company])), end="", soft_wrap=True)
    err.print(f"registered {entry.registered_at:%Y-%m-%dT%H:%M:%SZ}, {entry.company.state}", highlight=False)
    quoted = shlex.quote(company)
    if entry.onboarded_at is None:
        err.print(Text(f"its onboarding was not finished: lpm-stream companies add {quoted}"), soft_wrap=True)
    if lags:
        err.print(
            "whether its tables have its columns, and no others, is not known: lpm-stream companies apply, with a "
            "file that has it as it is here",
            soft_wrap=True,
        )
    for feed in lacking:
        err.print(Text(f"{feed} lacks what it was granted: lpm-stream backfill {quoted}"), soft_wrap=True)


@app.command()
def export(
    file: Annotated[Path, typer.Option("--file", "-f", help="Where to; - for stdout.")] = Path("-"),
    home: Home = None,
) -> None:
    """Write the registry as YAML, as `apply` reads it; companies that were removed are left out."""
    from lpm_stream.control import entries
    from lpm_stream.control.registry_file import as_yaml

    with opened_all(home, create=False) as streams:
        known = [entry.company for entry in entries.read_all(streams[0].store)]
    text = as_yaml([company for company in known if company.state != "offboarding"])
    if str(file) == "-":
        console.print(Text(text), end="", soft_wrap=True)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LpmStreamError(f"{file}: cannot be written ({error.strerror})") from error


@app.command()
def pause(company: Id, home: Home = None) -> None:
    """Have a company's changes wait in the hub: it goes on from there when it is resumed."""
    changed = _set_state(home, company, "paused")
    console.print(Text(f"company {company!r} is paused{'' if changed else ' already'}"))


@app.command()
def resume(company: Id, home: Home = None) -> None:
    """Deliver to a paused company again, from where it was paused."""
    changed = _set_state(home, company, "active")
    console.print(Text(f"company {company!r} is {'resumed' if changed else 'not paused'}"))


@app.command()
def remove(
    company: Id,
    drop_data: Annotated[
        bool, typer.Option("--drop-data", help="Drop its rows, too; asks for the id to be typed.")
    ] = False,
    home: Home = None,
) -> None:
    """Stop serving a company at once; its rows stay in its database unless they are to be dropped.

    What comes for it from then on is counted and shown, as for any company that nobody has registered.
    """
    from lpm_stream.control import entries

    with opened_all(home, create=False) as streams:
        entries.read(streams[0].store, company)  # before anything is asked
        if drop_data:
            err.print(Text(f"this drops every row that {company!r} has received; its id, to go on:"), end=" ")
            if typer.get_text_stream("stdin").readline().rstrip("\r\n") != company:
                raise LpmStreamError("that is not its id: nothing was done")
        changed = entries.set_state(streams[0].store, company, "offboarding")
        console.print(Text(f"company {company!r} is {'not served any more' if changed else 'removed already'}"))
        if drop_data:
            from lpm_stream.change_company import drop_data as drop

            time.sleep(_NOTICED_SECONDS)
            drop(streams, company)
            console.print(Text(f"the rows of company {company!r} are dropped"))


def _set_state(home: Path | None, company: str, state: str) -> bool:
    from lpm_stream.control import entries, parking

    with opened_all(home, create=False) as streams:
        changed = entries.set_state(streams[0].store, company, state)
        for stream in streams:
            parking.try_now(stream.store, stream.spec.name, company)
    return changed
