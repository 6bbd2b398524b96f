"""demo: the whole thing on one machine, with simulated traffic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lpm_stream.cli.common import (
    Feed,
    Home,
    Json,
    beside,
    console,
    err,
    opened,
    require_writable,
    stop_on_signals,
    the_feed,
    write_json,
)
from lpm_stream.cli.reconcile import FAULTS, chosen_fault
from lpm_stream.cli.simulate import Companies, Rate, simulated_companies
from lpm_stream.cli.status import rendered
from lpm_stream.errors import LpmStreamError
from lpm_stream.settings import Settings

if TYPE_CHECKING:
    from lpm_stream.demo.result import Result
    from lpm_stream.demo.watch import Seen
    from lpm_stream.status import Status

_INTERRUPTED = 130  # as after Ctrl-C: the audit that --for promises was not made
_LEAST_SECONDS = 60  # of traffic for a fault: so a minute ends that has enough of it
Show = Callable[[str, "Status", "Seen", str], None]
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
    fault: Annotated[
        str | None,
        typer.Option(help=f"Have one company's legacy file be wrong, which is to be found: {', '.join(FAULTS)}."),
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
    """Stream a simulated table to a database per company, under Dagster, and show it live.

    Legacy files come every minute and are compared. Exit code 1 if the audit finds anything, a check fails or an
    alert is sent; with --fault, if anything but one check of one company fails, and one alert is sent of it.
    """
    from lpm_stream.demo.legacy import declare
    from lpm_stream.demo.run import Demo, run_demo

    wrong = chosen_fault(fault)
    if wrong and seconds is not None and seconds < _LEAST_SECONDS:
        raise LpmStreamError(f"--fault needs traffic --for at least {_LEAST_SECONDS} seconds")
    stop = stop_on_signals()
    settings = Settings.load(home)
    declare(settings, the_feed(feed, settings.home))
    with opened(home, feed, hub_url=hub, database_template=databases) as stream:
        require_writable(json_file)
        with _screen() as show:
            asked = Demo(simulated_companies(companies), rate, port, seconds, wrong, stop, show)
            result = run_demo(stream, asked)
        if result is None:
            err.print(Text(f"stopped; everything is kept in {stream.settings.home}"), soft_wrap=True)
            raise typer.Exit(_INTERRUPTED if seconds is not None else 0)
    if json_file:
        write_json(json_file, result)
    _print(result, beside(json_file))
    if not (result.clean and result.as_expected):
        raise typer.Exit(1)


def _print(result: "Result", out: Console) -> None:
    latency = result.latency_s
    out.print(
        f"{result.committed:,} changes committed, {result.delivered:,} delivered to {len(result.companies)} "
        f"companies; latency p50 {latency['p50']} s, p99 {latency['p99']} s; audit at version {result.version}: "
        f"{result.missing} missing, {result.different} different, {result.extra} extra, "
        f"{result.duplicated} duplicated, {result.misrouted} misrouted",
        highlight=False,
        soft_wrap=True,
    )
    passed = sum(one.passed for one in result.checks)
    out.print(f"{passed} of {len(result.checks)} checks passed; {len(result.alerts)} alerts", highlight=False)
    for check in result.checks:
        if not check.passed:
            out.print(Text(f"{check.company}: check {check.name} fails ({check.severity})"), soft_wrap=True)
    for alert in result.alerts:
        whom = alert.company or "the feed"
        out.print(Text(f"{whom}: alert {alert.cause}, {alert.state}, sent {alert.sent} times"), soft_wrap=True)
    for one in result.faults:
        verdict = "found" if one.found else "not found, or not alone"
        where = one.file or "a file that does not come"
        out.print(Text(f"{one.company}: fault {one.fault} in {where}: {verdict}"), soft_wrap=True)


@contextmanager
def _screen() -> Iterator[Show]:
    """The live table in a terminal, a line for each new stage elsewhere."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:

            def show(stage: str, status: "Status", seen: "Seen", url: str) -> None:
                heading = Text(f"{stage}  Dagster at {url}  Ctrl-C stops\n", style="bold")
                live.update(Group(heading, rendered(status), _checks(seen)), refresh=True)

            yield show
    else:
        stages: list[str] = []

        def note(stage: str, _status: "Status", _seen: "Seen", url: str) -> None:
            if stage not in stages:
                stages.append(stage)
                err.print(f"{stage} ({url})", highlight=False)

        yield note


def _checks(seen: "Seen") -> Text:
    """Checks and alerts in a line or two."""
    red = [one for one in seen.checks if not one.passed]
    text = Text(f"checks: {len(seen.checks) - len(red)} passed")
    if red:
        named = ", ".join(f"{one.name} of {one.company}" for one in red[:3])
        text.append(f", {len(red)} failed: {named}{' ...' if red[3:] else ''}", style="bold red")
    standing = [one for one in seen.alerts if one.state != "resolved"]
    text.append(f"\nalerts: {len(standing)} open", style="bold red" if standing else "")
    return text
