"""Looks at Dagster: whether its daemon lives, and the feed's sensors are on and well."""

import os
from collections.abc import Iterator
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType

from lpm_stream.doctor.outcome import NothingThereError
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.sensing import failing, is_sensor_of


def look(spec: FeedSpec) -> str:
    """The daemon's heartbeat and the sensors' states and ticks, out of the instance's storage.

    Raises:
        NothingThereError: if no `DAGSTER_HOME` is set.
        LpmStreamError: if something does not run.
    """
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise NothingThereError("DAGSTER_HOME is not set: nothing runs here under Dagster")
    if not Path(home).is_dir():
        raise LpmStreamError(f"DAGSTER_HOME: there is no directory {home}")
    with DagsterInstance.get() as instance:
        if problems := [*_daemons(instance), *_sensors(instance, spec)]:
            raise LpmStreamError("; ".join(problems))
    return "its daemon lives, and no sensor that the feed needs is off or fails"


def _daemons(instance: DagsterInstance) -> Iterator[str]:
    beats = instance.get_daemon_statuses()
    wanted = [status for status in beats.values() if status.required]
    if wanted and not any(status.last_heartbeat for status in wanted):
        yield "dagster-daemon has never run"
        return
    for status in wanted:
        if not status.healthy:
            errors = status.last_heartbeat.errors if status.last_heartbeat else None
            said = f" ({errors[0].message.strip().splitlines()[-1]})" if errors else ""
            yield f"daemon {status.daemon_type} does not run{said}"


def _sensors(instance: DagsterInstance, spec: FeedSpec) -> Iterator[str]:
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        name = state.instigator_name
        if not is_sensor_of(spec.name, name):
            continue
        if not state.is_running:
            yield f"sensor {name} is off: turn it on in Dagster under Automation"
        elif found := failing(instance, state):
            yield f"sensor {name} fails since {found.since:%Y-%m-%dT%H:%M:%SZ}: {found.error}"
