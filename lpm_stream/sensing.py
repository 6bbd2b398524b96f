"""Which sensors and jobs in Dagster a feed depends on, and whether such a sensor keeps failing.

The alerts and the doctor ask; both have to see the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick
    from dagster_shared.error import SerializableErrorInfo

ONBOARD_SENSOR, ONBOARD_JOB, ONBOARD_OP = "onboard_new_partitions", "onboard_company", "onboard"
TIDY = "tidy"

_JOBS = ("backfill", "replay_quarantine", "discard_quarantine", "discard_nobodys_quarantine", "resync", "check")
_FAILURES_IN_A_ROW = 3  # of a sensor's ticks; a code location that is reloaded fails one
_TICKS = 50
_TOLD = ("lpm_stream.", "dagster.")  # what begins the text of an error whose words are for people


@dataclass(frozen=True)
class Failing:
    """A sensor whose last ticks have all failed: since when, and what the last one says."""

    since: datetime
    error: str


def files_sensor(feed: str) -> str:
    """The name of the sensor that sees legacy files come."""
    return f"watch_{feed}_files"


def replay_job_name(feed: str) -> str:
    """The name of the job that replays a company's rows in quarantine."""
    return f"replay_quarantine_{feed}"


def is_sensor_of(feed: str, name: str) -> bool:
    """Whether a feed depends on a sensor: its own, or one for all feeds."""
    own = {f"{does}_{feed}" for does in ("publish", "deliver", "alerts")}
    return name in {*own, files_sensor(feed), ONBOARD_SENSOR}


def is_job_of(feed: str, name: str) -> bool:
    """Whether a job is a feed's, or one for all feeds."""
    return name in {*(f"{does}_{feed}" for does in _JOBS), ONBOARD_JOB, TIDY}


def failing(instance: "DagsterInstance", state: "InstigatorState") -> Failing | None:
    """Whether a sensor's last ticks have failed, often enough to matter."""
    failed = list(_failed(instance, state))
    if len(failed) < _FAILURES_IN_A_ROW:
        return None
    return Failing(datetime.fromtimestamp(failed[-1].timestamp, UTC), _said(failed[0].error))


def _said(error: "SerializableErrorInfo | None") -> str:
    """The last line of our own errors and Dagster's; another's text may quote a row, so only its type is told."""
    if error is None:
        return "it does not say why"
    cause = error.cause or error
    if cause.message.startswith(_TOLD):
        return cause.message.strip().splitlines()[-1].removeprefix(f"{_TOLD[0]}errors.{cause.cls_name}: ")
    return f"unexpected {cause.cls_name}"


def _failed(instance: "DagsterInstance", state: "InstigatorState") -> Iterator["InstigatorTick"]:
    """Its ticks since the last that did not fail, the newest first."""
    from dagster._core.scheduler.instigation import TickStatus  # noqa: PLC0415 - slow, and some only want names

    for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=_TICKS):
        if tick.status == TickStatus.STARTED:
            continue
        if tick.status != TickStatus.FAILURE:
            return
        yield tick
