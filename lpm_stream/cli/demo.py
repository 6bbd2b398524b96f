"""demo: the whole thing on one machine, with simulated traffic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, err, opened, stop_on_signals, write_json
from lpm_stream.cli.simulate import Companies, Rate, simulated_companies
from lpm_stream.cli.status import rendered

if TYPE_CHECKING:
    from lpm_stream.status import Status

_INTERRUPTED = 130  # as after Ctrl-C: the audit that --for promises was not made
Show = Callable[[str, "Status", str], None]
Hub = Annotated[
    str | None,
    typer.Option("--hub", show_default="embedded", help="URL of the hub, such as kafka://HOST:PORT/TOPIC."),
]
Databases = Annotated[
    str | None,
    typer.Option(
        "--databases",
        show_default="SQLite",
        help="URL of a company's database, such as postgresql://USER@HOST/lpm_{company}.",
    ),
]


def demo(
    seconds: Annotated[
        float | None, typer.Option("--for", min=1, help="Stop after so many seconds of traffic, and audit.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of Dagster's webserver on localhost.")] = 3000,
    rate: Rate = 200,
    companies: Companies = 5,
    hub: Hub = None,
    databases: Databases = None,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Stream a simulated table to a database per company, under Dagster, and show it live."""
    from lpm_stream.demo.run import Demo, run_demo

    stop = stop_on_signals()
    with opened(home, feed, hub_url=hub, database_template=databases) as stream:
        with _screen() as show:
            result = run_demo(stream, Demo(simulated_companies(companies), rate, port, seconds, stop, show))
        if result is None:
            err.print(Text(f"stopped; everything is kept in {stream.settings.home}"), soft_wrap=True)
            raise typer.Exit(_INTERRUPTED if seconds is not None else 0)
    if json_file:
        write_json(json_file, result)
    latency = result.latency_s
    console.print(
        f"{result.committed:,} changes committed, {result.delivered:,} delivered to {len(result.companies)} "
        f"companies; latency p50 {latency['p50']} s, p99 {latency['p99']} s; audit at version {result.version}: "
        f"{result.missing} missing, {result.different} different, {result.extra} extra, "
        f"{result.duplicated} duplicated, {result.misrouted} misrouted",
        highlight=False,
        soft_wrap=True,
    )
    if not result.clean:
        raise typer.Exit(1)


@contextmanager
def _screen() -> Iterator[Show]:
    """The live table in a terminal, a line for each new stage elsewhere."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:

            def show(stage: str, status: "Status", url: str) -> None:
                heading = Text(f"{stage}  Dagster at {url}  Ctrl-C stops\n", style="bold")
                live.update(Group(heading, rendered(status)), refresh=True)

            yield show
    else:
        stages: list[str] = []

        def note(stage: str, _status: "Status", url: str) -> None:
            if stage not in stages:
                stages.append(stage)
                err.print(f"{stage} ({url})", highlight=False)

        yield note
