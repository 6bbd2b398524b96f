"""verify: an audit of the company databases against the source table."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, err, opened, require_writable, write_json
from lpm_stream.errors import LpmStreamError

if TYPE_CHECKING:
    from lpm_stream.audit import report as audit_report
    from lpm_stream.control.registry import Served
    from lpm_stream.stream import Stream

_SETTLE_SECONDS = 15.0  # for what is in hand; whether a stream runs shows nowhere between two ticks of a sensor


def verify(
    company: Annotated[str | None, typer.Option(help="Only this company.")] = None,
    version: Annotated[int | None, typer.Option(min=0, help="Of the table; the newest by default.")] = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Compare the source table with the company databases, row by row and value by value.

    Exit code 1 if anything is missing, extra, different, duplicated or misrouted. What differs is looked at again
    for some seconds before it counts, since the stream may be about to deliver it.
    """
    from functools import partial

    from lpm_stream.audit.entitled import audit_entitled
    from lpm_stream.audit.run import audit

    with opened(home, feed, create=False) as stream:
        require_writable(json_file)
        companies = _companies(stream, company)
        with _progress() as progress:
            one = partial(
                audit,
                table=stream.table,
                version=version,
                scratch=stream.settings.home / "scratch",
                settle_seconds=_SETTLE_SECONDS if version is None else 0,
                progress=progress,
            )
            report = audit_entitled(stream.spec, companies, lambda spec, places: one(spec, databases=places))
    if json_file:
        write_json(json_file, report)
    else:
        _print(report)
    if not report.clean:
        raise typer.Exit(1)


def _companies(stream: "Stream", company: str | None) -> "list[Served]":
    from lpm_stream.control import registry

    served = registry.served(stream.store, stream.settings, stream.spec.name)
    if company is None:
        return list(served.values())
    if company not in served:
        raise LpmStreamError(f"company {company!r} is not registered; lpm-stream companies list shows who is")
    return [served[company]]


@contextmanager
def _progress() -> "Iterator[audit_report.Progress]":
    """Shows which part is being read, and how many rows so far."""
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def advance(step: "audit_report.Step") -> None:
            bar.update(
                task,
                description=step.company or step.name,
                advance=step.rows if step.name in {"table", "database"} else 0,
            )

        yield advance


def _print(report: "audit_report.AuditReport") -> None:
    title = f"feed {report.feed}, table version {report.version}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("company", overflow="fold", min_width=12)
    for heading in ("table", "database", "missing", "extra", "different", "doubled", "misrouted"):
        table.add_column(heading, justify="right")
    for one in report.companies:
        counts = one.counts
        faults = (counts.missing, counts.extra, counts.different, counts.duplicated, counts.misrouted)
        cells = [Text(f"{count:,}", style="red" if count else "") for count in faults]
        table.add_row(Text(one.company), f"{counts.rows_in_table:,}", f"{counts.rows_in_database:,}", *cells)
    console.print(table)
    for one in report.companies:
        if one.problem:
            console.print(Text(f"{one.company}: {one.problem}", style="red"))
        for fault, examples in one.examples.items():
            for example in examples:
                key = ", ".join(str(part) for part in example.key)
                columns = f" in {', '.join(example.columns)}" if example.columns else ""
                console.print(Text(f"{one.company}: {fault}: {key}{columns}"))
    if report.unregistered:
        console.print(f"{report.unregistered:,} rows of the table belong to companies that were not asked for")
    if report.ambiguous:
        console.print(f"{report.ambiguous:,} keys stand more than once in the table itself")
    console.print(
        Text("clean" if report.clean else "NOT clean", style="bold green" if report.clean else "bold red")
    )
