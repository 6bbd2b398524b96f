"""The commands, and how errors reach the user."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.text import Text

import lpm_stream
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
    # Polars gives memory back half a second after it was freed, and in a backlog soon asks for it again: keeping
    # it for longer takes 4 % of the work away. Its allocator looks at its import, here and in child processes.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:2000")


def main() -> None:
    """Runs a command. Errors with an explanation become one line and exit code 2; any other is a defect, and 4."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if isinstance(error, LpmStreamError | ValidationError):
            _end(_one_line(error), 2)
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("lpm_stream"):
            _end(f"package {error.name} is not installed: pip install 'lpm-stream[all]'", 2)
        _end(_defect(error), 4)


def _end(message: str, code: int) -> NoReturn:
    err.print(Text("error: ", style="bold red").append(message, style="not bold default"), soft_wrap=True)
    sys.exit(code)


def _defect(error: Exception) -> str:
    """What a defect is and where it shows; its text is left out, since that may quote rows."""
    ours = Path(lpm_stream.__file__).parent
    [*_, last] = [one for one in traceback.extract_tb(error.__traceback__) if ours in Path(one.filename).parents]
    where = f"{Path(last.filename).relative_to(ours.parent)}, line {last.lineno}"
    return f"{type(error).__name__} in {where}: a defect of lpm_stream; lpm-stream --debug COMMAND shows more"


def _one_line(error: Exception) -> str:
    """What to tell the user; a wrong setting by the name of its environment variable."""
    if not isinstance(error, ValidationError):
        return str(error)
    problems = [f"LPM_STREAM_{one['loc'][0]}".upper() + f": {one['msg']}" for one in error.errors() if one["loc"]]
    return "; ".join(problems) or str(error)
