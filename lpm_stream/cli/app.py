"""The commands, and how errors reach the user."""

import sys
from typing import Annotated

import typer

from lpm_stream.cli import companies, demo, drains, simulate, status, verify
from lpm_stream.cli.common import err, set_up_logging
from lpm_stream.errors import LpmStreamError

app = typer.Typer(
    help="Streams every change of a Delta table into the database of the company it belongs to.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(demo.demo)
app.command()(status.status)
app.command()(drains.relay)
app.command()(drains.publish)
app.command()(drains.deliver)
app.command()(verify.verify)
app.command()(simulate.simulate)
app.add_typer(companies.app, name="companies")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show debug logs, and tracebacks of errors.")] = False,
) -> None:
    """Sets up logging: what happens goes to stderr, results to stdout."""
    set_up_logging(debug=debug)


def main() -> None:
    """Runs a command. Errors with an explanation become one line and exit code 2."""
    try:
        app()
    except LpmStreamError as error:
        if "--debug" in sys.argv:
            raise
        err.print(f"[bold red]error:[/] {error}", highlight=False, markup=True, soft_wrap=True)
        sys.exit(2)
