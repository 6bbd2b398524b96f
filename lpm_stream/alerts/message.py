"""What people read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.outbox import Notification

Event = Literal["opened", "updated", "reminder", "resolved"]

_TITLE = 200  # characters; a subject line, or the heading of a chat message
_HEADINGS: dict[Event, str] = {
    "opened": "",
    "updated": "changed: ",
    "reminder": "still: ",
    "resolved": "resolved: ",
}


_GRAVEST: tuple[str, ...] = ("opened", "updated", "reminder", "resolved")


def message(event: Event, feed: str, cause: Cause, dagster_url: str, now: datetime) -> Notification:
    """What is told of an incident."""
    lines = [
        f"What: {cause.what}",
        f"Since: {cause.since:%Y-%m-%dT%H:%M:%SZ}",
        f"Affected: {cause.affected}",
        f"Likely cause: {cause.likely}",
        f"Next: {cause.command}",
    ]
    if event == "resolved":
        lines = [f"Resolved: {now:%Y-%m-%dT%H:%M:%SZ}", *lines[:2], "Next: nothing; it is over"]
    lines.append(f"See: {dagster_url.rstrip('/')}{cause.page}")
    title = _one_line(f"[lpm_stream {feed}] {_HEADINGS[event]}{cause.what}")
    return Notification(event, title, "\n".join(lines))


def digest(feed: str, several: Sequence[Notification]) -> Notification:
    """Many notifications as one, as grave as the gravest: whoever is told of hundreds at once reads none."""
    title = f"[lpm_stream {feed}] {len(several)} alerts, the first: {several[0].title}"
    body = "\n\n".join(f"{one.title}\n{one.body}" for one in several)
    event = min((one.event for one in several), key=_GRAVEST.index)
    return Notification(event, _one_line(title), body)


def sample(feed: str, dagster_url: str) -> Notification:
    """What `lpm-stream alerts test` sends."""
    lines = [
        "What: nothing is wrong; somebody typed lpm-stream alerts test",
        "Affected: nobody",
        "Next: nothing",
        f"See: {dagster_url}",
    ]
    return Notification("test", f"[lpm_stream {feed}] a sample alert", "\n".join(lines))


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _TITLE else f"{text[: _TITLE - 1]}…"
