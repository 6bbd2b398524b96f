"""companies add, companies apply: companies taken in, and changed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lpm_stream.cli.common import Home, console, err, opened_all, stop_on_signals
from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from lpm_stream.control.company import Company
    from lpm_stream.control.registry_file import Change
    from lpm_stream.onboard import Order
    from lpm_stream.stream import Stream

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


def add(
    company: Annotated[str, typer.Argument(help="The company's id: its value in the feeds' company column.")],
    database: Annotated[
        str | None,
        typer.Option(
            help="Its database: a URL without password, {company} stands for the id; or env:NAME, "
            "file:PATH or keyvault:VAULT/SECRET, where the URL is; by default from LPM_STREAM_DATABASE_TEMPLATE."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Its name, for people.")] = "",
    groups: Annotated[
        str, typer.Option(help="Groups of columns, with commas between them; all: every one.")
    ] = "base",
    feeds: Annotated[str, typer.Option(help="The feeds it receives, with commas between them; none: all.")] = "",
    slo_seconds: Annotated[float | None, typer.Option(help="Promised to it instead of the feed's.")] = None,
    contact: Annotated[list[str] | None, typer.Option(help="Whom to ask or to tell; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Onboard a company: registry, database, Dagster partition, history, stream, first checks.

    If that stops on the way, the same command goes on from there.
    """
    from lpm_stream.onboard import plan

    wanted = _company(
        id=company,
        database=database,
        name=name,
        groups=_listed(groups),
        feeds=_listed(feeds),
        slo_seconds=slo_seconds,
        contacts=contact or [],
        labels=dict(map(_pair, label or [])),
    )
    with opened_all(home) as streams, _order(streams, wanted) as order:
        if dry_run:
            for step, what in plan(order):
                _tell(step, what)
            return
        well = _onboard(order)
    if not well:
        raise typer.Exit(1)


def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="A YAML file, as `export` writes it.")],
    every: Annotated[
        bool,
        typer.Option(
            "--every",
            help="See to the columns of every company that the file names: after the contract has moved one to "
            "another group.",
        ),
    ] = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
) -> None:
    """Bring the registry to what a YAML file says; companies that it does not name stay as they are."""
    from lpm_stream.change_company import unfinished
    from lpm_stream.control import entries
    from lpm_stream.control.registry_file import Change, changes, read_file

    with opened_all(home) as streams:
        wanted = read_file(file, {stream.spec.name: stream.spec for stream in streams})
        store = streams[0].store
        found = changes(entries.read_all(store), wanted)
        left = unfinished(streams, wanted if every else ())
        rest = [one for one in wanted if one.id in left.keys() - {change.after.id for change in found}]
        for change in found:
            for line in change.lines():
                console.print(
                    Text(line, style={"+": "green", "-": "red"}.get(line.strip()[0], "")), soft_wrap=True
                )
        for one in rest:
            console.print(Text(f"~ {one.id}\n    to finish: {left[one.id]}"), soft_wrap=True)
        if not found and not rest:
            console.print("nothing to change")
            return
        if dry_run or not (yes or typer.confirm("apply this?", err=True)):
            raise typer.Exit(0 if dry_run else 1)
        work = [*found, *(Change(one, one) for one in rest)]
        done = [_applied(streams, change) for change in work]
    if not all(done):
        raise typer.Exit(1)


def confirm(
    company: Annotated[str, typer.Argument(help="The company's id.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
) -> None:
    """Have a company's tables follow the registry again, after the control store was restored from an older copy.

    Its database has seen newer entitlements than the registry has, and refuses these until they are confirmed.
    """
    from lpm_stream.change_company import confirm as confirm_company
    from lpm_stream.control import entries

    with opened_all(home, create=False) as streams:
        found = entries.read(streams[0].store, company).company
        groups = ", ".join(found.groups)
        question = f"is company {company!r} to have the columns of {groups}, and no others?"
        if not (yes or typer.confirm(question, err=True)):
            raise typer.Exit(1)
        with _order(streams, found) as order:
            done = confirm_company(streams, found, go_on=order.go_on, tell=order.progress)
    console.print(Text(f"company {company!r}: {'; '.join(done)}"), soft_wrap=True)


def _applied(streams: "Sequence[Stream]", wanted: "Change") -> bool:
    """Makes one company what it is to be; whether that went well."""
    from lpm_stream.change_company import change, finish
    from lpm_stream.control import entries

    company = wanted.after
    try:
        with _order(streams, company) as order:
            if wanted.before is None:
                well = _onboard(replace(order, company=company.model_copy(update={"state": "active"})))
                entries.set_state(order.store, company.id, company.state)
                return well
            if wanted.before == company:
                done = finish(streams, company, go_on=order.go_on, tell=order.progress)
            else:
                done = change(streams, wanted, go_on=order.go_on, tell=order.progress)
    except LpmStreamError as error:
        err.print(Text(f"company {company.id!r}: {error}", style="red"), soft_wrap=True)
        return False
    console.print(Text(f"company {company.id!r}: {'; '.join(done) or 'changed'}"), soft_wrap=True)
    return True


def _onboard(order: "Order") -> bool:
    from lpm_stream.onboard import failed, onboard

    results = onboard(order)
    for name, what in failed(results).items():
        err.print(Text(f"check {name} has failed: {what}", style="red"), soft_wrap=True)
    passed = sum(result.passed for result in results)
    _tell("checks", f"{passed} of {len(results)} passed")
    console.print(Text(f"company {order.company.id!r} is registered"), soft_wrap=True)
    return not failed(results)


@contextmanager
def _order(streams: "Sequence[Stream]", company: "Company") -> "Iterator[Order]":
    from lpm_stream.onboard import Order

    stop = stop_on_signals()
    columns = (TextColumn("loading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err, transient=True)
    task = bar.add_task("", total=None)

    def progress(rows: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=rows, total=total)

    try:
        yield Order(company, streams, _add_partition, _tell, lambda: not stop.is_set(), progress)
    finally:
        bar.stop()


def _tell(step: str, what: str) -> None:
    console.print(Text(f"{step:<10}{what}"), soft_wrap=True)


def _add_partition(stream: "Stream", company: str) -> str:
    """Adds it where this command knows of a Dagster; the deliver sensor finds it otherwise."""
    import os

    if not os.environ.get("DAGSTER_HOME"):
        return "added by Dagster's sensor, as DAGSTER_HOME is not set here"
    from lpm_stream.components.partitions import add_partition

    return add_partition(stream, company)


def _company(**said: object) -> "Company":
    from pydantic import ValidationError

    from lpm_stream.control.company import Company
    from lpm_stream.control.company import said as explained

    try:
        return Company.model_validate(said)
    except ValidationError as error:
        raise LpmStreamError(explained(error)) from None


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise LpmStreamError(f"--label {text}: give KEY=VALUE")
    return key, value
