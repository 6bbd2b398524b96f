"""publish, deliver, relay: the drains from the command line."""

import logging
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from lpm_stream.cli.common import (
    Feed,
    Home,
    Json,
    beside,
    err,
    opened,
    require_writable,
    set_up_logging,
    stop_in_time,
    the_feed,
    write_json,
)
from lpm_stream.settings import Settings

if TYPE_CHECKING:
    from lpm_stream.publish.drain import Published


def publish(
    from_version: Annotated[
        int,
        typer.Option(min=0, help="Where to begin a feed never published before; earlier commits are left out."),
    ] = 0,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """Publish new commits of the source table to the hub, until caught up."""
    stop = stop_in_time()
    with opened(home, feed) as stream:
        require_writable(json_file)
        done = stream.publisher(from_version).drain(
            poll_seconds=stream.settings.poll_seconds,
            go_on=lambda: not stop.is_set(),
            at_once=stop.is_set,
            until_caught_up=True,
        )
    if json_file:
        write_json(json_file, done)
    _exit_on_standby(done.standby)
    beside(json_file).print(_published_line(done))


def deliver(home: Home = None, feed: Feed = None, json_file: Json = None) -> None:
    """Deliver the hub's messages to the company databases, until caught up."""
    from lpm_stream.control import parking

    stop = stop_in_time()
    with opened(home, feed) as stream:
        require_writable(json_file)
        done = stream.deliverer().drain(go_on=lambda: not stop.is_set(), until_caught_up=True)
        parked = parking.read_parked(stream.store, stream.spec.name)
    if json_file:
        companies = {
            company: {"changes": latencies.changes, "latency_s": latencies.summary()}
            for company, latencies in done.companies.items()
        }
        result = {"companies": companies, "refused": done.refused, "problems": done.problems}
        write_json(json_file, result | {"parked": {one.company: one.reason for one in parked.values()}})
    _exit_on_standby(done.standby)
    out = beside(json_file)
    out.print(f"delivered {done.changes:,} changes to {len(done.companies):,} companies")
    if done.refused:
        out.print(f"{done.refused:,} rows were refused by their databases and are in quarantine")
    for one in parked.values():
        err.print(Text(f"company {one.company!r} is parked: {one.reason}", style="red"), soft_wrap=True)
    if done.problems or parked:
        raise typer.Exit(1)


def relay(home: Home = None, feed: Feed = None) -> None:
    """Publish and deliver until stopped: the lowest latency, without Dagster."""
    from lpm_stream.relay import relay as run

    stop = stop_in_time()
    settings = Settings.load(home)
    spec = the_feed(feed, settings.home)
    table = settings.table_location(spec.source_table)
    err.print(f"relaying feed {spec.name} from {table}; Ctrl-C stops", highlight=False, soft_wrap=True)
    run(settings, spec, stop, partial(set_up_logging, debug=logging.getLogger().level == logging.DEBUG))


def _published_line(done: "Published") -> str:
    if done.newest_version < 0:
        return "stopped before the table was looked at: nothing was published"
    behind = done.newest_version - done.version
    stopped = f"stopped {behind:,} versions behind the table's newest, {done.newest_version}"
    if not done.versions:
        reached = f"the cursor is at version {done.version}"
        return f"{stopped}: {reached}" if behind else f"nothing to publish: {reached}, the table's newest"
    rate = f", {done.bytes / done.changes:.0f} bytes a change" if done.changes else ""
    bad = f"; {done.quarantined:,} rows break the contract and are in quarantine" if done.quarantined else ""
    return (
        f"published {done.versions:,} versions up to {done.version}: {done.changes:,} changes in "
        f"{done.messages:,} messages{rate}{bad}{f'; {stopped}' if behind else ''}"
    )


def _exit_on_standby(standby: bool) -> None:
    if standby:
        err.print("another worker is at it; nothing was done (lpm-stream status shows who)")
        raise typer.Exit(3)
