"""tidy: remove what would grow for ever."""

import os

from lpm_stream.cli.common import Home, console
from lpm_stream.errors import LpmStreamError
from lpm_stream.settings import Settings


def tidy(home: Home = None) -> None:
    """Remove what is older than the settings keep, as Dagster's job `tidy` does every hour.

    In the control store minutes of the ledger are added up per day (LPM_STREAM_LEDGER_DAYS). Where DAGSTER_HOME
    is set, Dagster's events, runs and ticks are trimmed as well (LPM_STREAM_DAGSTER_EVENT_DAYS, ..._RUN_DAYS).
    """
    from lpm_stream.control.store import ControlStore
    from lpm_stream.control.tidy import tidy_ledger

    settings = Settings.load(home)
    if not settings.home.exists():
        raise LpmStreamError(f"there is nothing at {settings.home}: check --dir or LPM_STREAM_HOME")
    store = ControlStore(settings.control_url)
    try:
        console.print(f"{tidy_ledger(store, settings.keep_ledger):,} minutes of the ledger added up per day")
    finally:
        store.close()
    if os.environ.get("DAGSTER_HOME"):
        _tidy_dagster(settings)
    else:
        console.print("DAGSTER_HOME is not set: Dagster's storage is left as it is")


def _tidy_dagster(settings: Settings) -> None:
    from dagster import DagsterInstance

    from lpm_stream.components.tidying import tidy_dagster

    with DagsterInstance.get() as instance:
        done = tidy_dagster(instance, settings)
    console.print(
        f"{done.runs:,} runs, {done.events:,} events and {done.evaluations:,} check evaluations of Dagster deleted"
    )
