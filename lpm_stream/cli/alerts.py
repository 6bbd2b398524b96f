"""alerts: what is wrong now, and who is told."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from lpm_stream.cli.common import Feed, Home, Json, console, err, instant, opened, the_feed, write_json
from lpm_stream.errors import LpmStreamError
from lpm_stream.settings import Settings

if TYPE_CHECKING:
    from lpm_stream.alerts.incidents import Incident, Silence
    from lpm_stream.alerts.outbox import ChannelState

app = typer.Typer(help="What is wrong now, and who is told.", no_args_is_help=True)

_ID_DIGITS = 8


@app.command("list")
def list_(
    resolved: Annotated[bool, typer.Option("--resolved", help="Those that are over instead.")] = False,
    home: Home = None,
    feed: Feed = None,
    json_file: Json = None,
) -> None:
    """List incidents with what to do, what is silenced, and how the channels are doing."""
    from lpm_stream.alerts.channels import references
    from lpm_stream.alerts.incidents import read_incidents, read_silences
    from lpm_stream.alerts.outbox import read_channels

    with opened(home, feed, create=False, needs_hub=False) as stream:
        name, settings = stream.spec.name, stream.settings
        found = read_incidents(stream.store, name, is_open=not resolved)
        silences = read_silences(stream.store, name)
        channels = read_channels(stream.store, name, references(settings.alert_urls))
    if json_file:
        incidents = [_plain(one, settings.dagster_url) for one in found]
        write_json(json_file, {"incidents": incidents, "silences": silences, "channels": channels})
        return
    for one in found:
        _print(one, settings.dagster_url)
    if not found:
        console.print("no incident is over" if resolved else "nothing is wrong, as far as anybody has looked")
    _print_around(silences, channels)


@app.command()
def ack(
    incident: Annotated[str, typer.Argument(help="The incident's id, or its first digits.")],
    home: Home = None,
    feed: Feed = None,
) -> None:
    """Take an incident on: nobody is reminded of it; that it is resolved is told."""
    from lpm_stream.alerts.incidents import acknowledge

    with opened(home, feed, create=False, needs_hub=False) as stream:
        found = acknowledge(stream.store, stream.spec.name, incident)
    console.print(Text(f"acknowledged: {found.cause.what}"), soft_wrap=True)


@app.command()
def silence(
    until: Annotated[str | None, typer.Option(help="An instant like 2026-01-31T12:00:00Z.")] = None,
    company: Annotated[str | None, typer.Option(help="Of this company only.")] = None,
    cause: Annotated[
        str | None, typer.Option(help="Of this cause only, such as parked or check_failed:latency_slo.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Of the whole feed.")] = False,
    end: Annotated[bool, typer.Option("--end", help="End the silence of just that company and cause.")] = False,
    home: Home = None,
    feed: Feed = None,
) -> None:
    """Tell nothing until an instant, for planned work; what is still wrong then is told then."""
    from lpm_stream.alerts.incidents import Silence, end_silences
    from lpm_stream.alerts.incidents import silence as begin

    if company is None and cause is None and not everything:
        raise LpmStreamError("say what to silence: --company, --cause, or --all")
    if (until is None) != end:
        raise LpmStreamError("say until when with --until, or --end")
    ends_at = instant(until, "--until")
    if ends_at is not None and ends_at <= datetime.now(UTC):
        raise LpmStreamError(f"--until {until}: that is over already")
    with opened(home, feed, create=False, needs_hub=False) as stream:
        if ends_at is None:
            ended = end_silences(stream.store, stream.spec.name, cause, company)
            console.print(f"{ended} silences ended")
            return
        begin(stream.store, stream.spec.name, Silence(cause, company, ends_at))
    console.print(f"silenced until {ends_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", highlight=False)


@app.command("test")
def send_samples(home: Home = None, feed: Feed = None, json_file: Json = None) -> None:
    """Send a sample to every channel; exit code 1 if one does not take it."""
    from lpm_stream.alerts.channels import references, send
    from lpm_stream.alerts.message import sample

    settings = Settings.load(home)
    spec = the_feed(feed, settings.home)
    channels = references(settings.alert_urls)
    if not channels:
        raise LpmStreamError("LPM_STREAM_ALERT_URLS names no channel: give references such as env:ALERT_MAIL")
    problems: dict[str, str | None] = {}
    for channel in channels:
        try:
            send(channel, sample(spec.name, settings.dagster_url))
            problems[channel] = None
        except LpmStreamError as error:
            problems[channel] = str(error)
    if json_file:
        write_json(json_file, [{"channel": one, "problem": problem} for one, problem in problems.items()])
    else:
        for channel, problem in problems.items():
            console.print(Text(problem or f"{channel}: sent", style="red" if problem else ""), soft_wrap=True)
    if any(problems.values()):
        raise typer.Exit(1)


@app.command()
def run(home: Home = None, feed: Feed = None, json_file: Json = None) -> None:
    """Look once, update the incidents and send what is due: what Dagster's sensor and the relay do all the time.

    Exit code 1 if a channel does not take what waits. Failing sensors and runs are left to Dagster's sensor.
    """
    from lpm_stream.alerts.run import run as go

    with opened(home, feed, create=False, needs_hub=False) as stream:
        done = go(stream)
    if json_file:
        write_json(json_file, done)
    else:
        changed = done.update
        text = f"{changed.opened} incidents opened, {changed.resolved} resolved; {done.sent} alerts sent"
        console.print(text, highlight=False)
    for problem in done.problems:
        err.print(Text(problem, style="red"), soft_wrap=True)
    if done.problems:
        raise typer.Exit(1)


def _plain(incident: "Incident", dagster_url: str) -> dict[str, object]:
    cause = incident.cause
    return {
        "id": incident.id,
        "cause": cause.kind,
        "company": cause.company or None,
        "state": _state(incident),
        "what": cause.what,
        "since": cause.since,
        "affected": cause.affected,
        "likely": cause.likely,
        "command": cause.command,
        "link": f"{dagster_url.rstrip('/')}{cause.page}",
        "opened_at": incident.opened_at,
        "told_at": incident.told_at,
        "acknowledged_at": incident.acknowledged_at,
        "resolved_at": incident.resolved_at,
    }


def _state(incident: "Incident") -> str:
    if incident.resolved_at:
        return "resolved"
    return "acknowledged" if incident.acknowledged_at else "open"


def _print(incident: "Incident", dagster_url: str) -> None:
    cause = incident.cause
    ended = f" to {incident.resolved_at:%Y-%m-%dT%H:%M:%SZ}" if incident.resolved_at else ""
    heading = (
        f"{incident.id[:_ID_DIGITS]}  {cause.kind}  {_state(incident)}  since {cause.since:%Y-%m-%dT%H:%M:%SZ}"
    )
    lines = (
        cause.what,
        f"affected: {cause.affected}",
        f"likely cause: {cause.likely}",
        f"next: {cause.command}",
        f"see: {dagster_url.rstrip('/')}{cause.page}",
    )
    console.print(Text(heading + ended, style="bold" if incident.resolved_at else "bold red"), soft_wrap=True)
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)


def _print_around(silences: "list[Silence]", channels: "list[ChannelState]") -> None:
    for one in silences:
        which = f"{one.kind or 'every cause'} of {one.company or 'every company'}"
        console.print(Text(f"silenced until {one.until:%Y-%m-%dT%H:%M:%SZ}: {which}"), soft_wrap=True)
    for channel in channels:
        if channel.waiting or channel.problem:
            problem = f": {channel.problem}" if channel.problem else ""
            text = f"{channel.channel}: {channel.waiting:,} alerts wait{problem}"
            console.print(Text(text, style="yellow"), soft_wrap=True)
