"""check: what the checks of the company tables say now."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, opened, write_json

if TYPE_CHECKING:
    from lpm_stream.checks.result import Result

_STYLES = {"ERROR": "bold red", "WARN": "yellow"}


def check(
    company: Annotated[str | None, typer.Option(help="Only this company.")] = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Check each company's table: complete, in time, nothing set aside. New legacy files are compared first.

    Exit code 1 if a check fails that is not just a warning.
    """
    from lpm_stream.checks.run import run_checks

    with opened(home, feed, create=False) as stream:
        results = list(run_checks(stream, None if company is None else [company]))
    if json_file:
        write_json(json_file, results)
    else:
        _print(results)
    if any(one.bad for one in results):
        raise typer.Exit(1)


def _print(results: "list[Result]") -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("company", "check", "result", "what"):
        table.add_column(heading, overflow="fold")
    for one in sorted(results, key=lambda one: (one.company, one.passed)):
        verdict = Text("passed", style="green") if one.passed else Text(one.severity, style=_STYLES[one.severity])
        table.add_row(Text(one.company), one.name, verdict, Text(one.description))
    console.print(table)
    for one in results:
        for example in one.examples:
            said = "; ".join(f"{name} {value}" for name, value in example.items() if value)
            console.print(Text(f"{one.company}: {one.name}: {said}"), soft_wrap=True)
