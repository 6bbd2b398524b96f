"""The commands, and how errors reach the user."""

import sys
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from lpm_stream.cli import (
    alerts,
    audit,
    check,
    companies,
    demo,
    doctor,
    drains,
    history,
    load,
    onboarding,
    quarantine,
    reconcile,
    simulate,
    status,
    tidy,
    verify,
)
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
app.command()(doctor.doctor)
app.command()(history.history)
app.command()(drains.relay)
app.command()(drains.publish)
app.command()(drains.deliver)
app.command()(verify.verify)
app.command()(reconcile.reconcile)
app.command()(check.check)
app.command()(load.backfill)
app.command()(load.resync)
app.command()(audit.audit)
app.command()(tidy.tidy)
app.command()(simulate.simulate)
app.command()(reconcile.simulate_legacy)
companies.app.command()(onboarding.add)
companies.app.command()(onboarding.apply)
companies.app.command()(onboarding.confirm)
app.add_typer(alerts.app, name="alerts")
app.add_typer(companies.app, name="companies")
app.add_typer(quarantine.app, name="quarantine")


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
    except (LpmStreamError, ValidationError) as error:
        if "--debug" in sys.argv:
            raise
        message = Text("error: ", style="bold red").append(_one_line(error), style="not bold default")
        err.print(message, soft_wrap=True)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    """What to tell the user; a wrong setting by the name of its environment variable."""
    if not isinstance(error, ValidationError):
        return str(error)
    problems = [f"LPM_STREAM_{one['loc'][0]}".upper() + f": {one['msg']}" for one in error.errors() if one["loc"]]
    return "; ".join(problems) or str(error)
