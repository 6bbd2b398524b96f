"""companies: who is served."""

import shlex
from typing import Annotated

import typer
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, console, err, opened

app = typer.Typer(help="The companies that are served.", no_args_is_help=True)


@app.command()
def add(
    company: Annotated[str, typer.Argument(help="The company's id: its value in the feed's company column.")],
    database: Annotated[
        str | None, typer.Option(help="URL of its database; by default from LPM_STREAM_DATABASE_TEMPLATE.")
    ] = None,
    home: Home = None,
    feed: Feed = None,
) -> None:
    """Register a company: its changes are published and delivered from now on."""
    from lpm_stream.control import progress, registry

    with opened(home, feed) as stream:
        cursor = progress.read_cursor(stream.store, stream.spec.name)
        if not registry.register(stream.store, company, database):
            err.print(Text(f"company {company!r} is registered already"))
            raise typer.Exit(1)
    console.print(Text(f"company {company!r} is registered"))
    if cursor is not None:
        err.print(
            Text(f"for what came up to version {cursor.version}: lpm-stream backfill {shlex.quote(company)}"),
            soft_wrap=True,
        )


@app.command("list")
def list_(home: Home = None, feed: Feed = None) -> None:
    """List the registered companies."""
    from lpm_stream.control import registry

    with opened(home, feed, create=False) as stream:
        for company in registry.registered(stream.store):
            console.print(Text(company), soft_wrap=True)
