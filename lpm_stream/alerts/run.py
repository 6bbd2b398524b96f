"""A round of alerts: look, bring the incidents up to it, send what is due."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from lpm_stream.alerts import incidents, outbox
from lpm_stream.alerts.cause import DAGSTERS, Cause
from lpm_stream.alerts.channels import references, send
from lpm_stream.alerts.incidents import Pace, Update
from lpm_stream.alerts.look import look
from lpm_stream.alerts.message import digest
from lpm_stream.alerts.outbox import Batch
from lpm_stream.errors import LpmStreamError
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream

log = logging.getLogger(__name__)

_ONE_BY_ONE = 5  # more than so many that wait become one message


@dataclass(frozen=True)
class Round:
    """What a round did.

    Attributes:
        update: what changed.
        sent: number of notifications that channels have taken.
        problems: why channels do not take any, one line each.
    """

    update: Update
    sent: int
    problems: tuple[str, ...]


def run(
    stream: Stream, from_dagster: Iterable[Cause] | None = None, go_on: Callable[[], bool] = lambda: True
) -> Round:
    """Looks at a stream, updates its incidents, and sends what waits.

    Args:
        stream: the stream.
        from_dagster: what is wrong that only Dagster knows of; None where nobody has asked Dagster: such
            incidents stay as they are.
        go_on: asked before each message is sent.

    Raises:
        LpmStreamError: if the control store cannot be used, or the setting of the channels is wrong.
    """
    channels = references(stream.settings.alert_urls)
    seen = look(stream)
    if from_dagster is None:
        seen = replace(seen, unseen=seen.unseen | DAGSTERS)
    else:
        seen = replace(seen, causes=(*seen.causes, *from_dagster))
    changed = incidents.update(
        stream.store,
        stream.spec.name,
        seen,
        channels,
        pace=pace_of(stream.settings),
        dagster_url=stream.settings.dagster_url,
    )
    sent, problems = 0, []
    for channel in channels:
        taken, problem = _send_waiting(stream, channel, go_on)
        sent += taken
        if problem:
            problems.append(problem)
    return Round(changed, sent, tuple(problems))


def pace_of(settings: Settings) -> Pace:
    """How often people are told, as the settings say."""
    return Pace(
        reminder=timedelta(hours=settings.alert_reminder_hours),
        calm=timedelta(seconds=settings.alert_calm_seconds),
    )


def _send_waiting(stream: Stream, channel: str, go_on: Callable[[], bool]) -> tuple[int, str | None]:
    """Sends what waits for a channel; how many it took, and why it took no more."""
    feed, total = stream.spec.name, 0
    while go_on() and (batch := outbox.claim(stream.store, feed, channel, datetime.now(UTC))):
        taken, problem = _send_batch(feed, batch, go_on)
        outbox.settle(stream.store, feed, batch, taken, problem, now=datetime.now(UTC))
        total += taken
        if problem:
            log.warning("alerts: %s", problem)
            return total, problem
    return total, None


def _send_batch(feed: str, batch: Batch, go_on: Callable[[], bool]) -> tuple[int, str | None]:
    taken = 0
    try:
        if len(batch.notifications) > _ONE_BY_ONE:
            send(batch.channel, digest(feed, batch.notifications))
            return len(batch.notifications), None
        for notification in batch.notifications:
            if not go_on():
                break
            send(batch.channel, notification)
            taken += 1
    except LpmStreamError as error:
        return taken, str(error)
    return taken, None
