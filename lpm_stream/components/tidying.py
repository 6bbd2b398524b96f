"""The job that keeps Dagster's storage and the control store from growing for ever, and its schedule."""

from typing import TYPE_CHECKING

import dagster as dg

from lpm_stream.control.store import ControlStore
from lpm_stream.control.tidy import tidy_ledger
from lpm_stream.sensing import TIDY
from lpm_stream.settings import Settings

if TYPE_CHECKING:
    from lpm_stream.components.trimming import Trimmed

_HOURLY = "41 * * * *"  # little at a time: the stream's sensors write to the same storage


def tidy_dagster(instance: dg.DagsterInstance, settings: Settings) -> "Trimmed":
    """Trims Dagster's storage as the settings say.

    Raises:
        LpmStreamError: if it is of a kind that cannot be trimmed.
    """
    from lpm_stream.components.trimming import trim  # noqa: PLC0415 - it brings Alembic, with Dagster's storage

    return trim(instance, settings.keep_dagster_events, settings.keep_dagster_runs)


def tidy_definitions() -> dg.Definitions:
    """The job and its schedule; they are nobody's feed, but everybody's."""

    @dg.op(name="tidy_up", description="Removes what is older than the settings say.")
    def tidy_up(context: dg.OpExecutionContext) -> None:
        settings = Settings.load()
        store = ControlStore(settings.control_url)
        try:
            minutes = tidy_ledger(store, settings.keep_ledger)
        finally:
            store.close()
        context.log.info("%d minutes of the ledger added up per day", minutes)
        done = tidy_dagster(context.instance, settings)
        context.log.info(
            "%d runs, %d events and %d check evaluations deleted", done.runs, done.events, done.evaluations
        )

    @dg.job(
        name=TIDY,
        description=(
            "Trims what would grow for ever: Dagster's events (LPM_STREAM_DAGSTER_EVENT_DAYS), runs, check "
            "evaluations and ticks (LPM_STREAM_DAGSTER_RUN_DAYS), and the ledger's minutes, which are added up "
            "per day (LPM_STREAM_LEDGER_DAYS). The newest of everything stays. By hand: lpm-stream tidy."
        ),
    )
    def tidy() -> None:
        tidy_up()

    schedule = dg.ScheduleDefinition(
        name=f"{TIDY}_hourly",
        job=tidy,
        cron_schedule=_HOURLY,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Trims what would grow for ever.",
    )
    return dg.Definitions(jobs=[tidy], schedules=[schedule])
