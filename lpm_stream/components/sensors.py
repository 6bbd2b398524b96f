"""The sensors that keep a feed moving."""

import dagster as dg

from lpm_stream.components.alerts import alerts_tick
from lpm_stream.components.arrivals import arrivals_tick
from lpm_stream.components.keys import company_key, hub_key
from lpm_stream.components.ticks import deliver_tick, publish_tick
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.sensing import files_sensor

_ALERT_SECONDS = 30
_LOOK_SECONDS = 10  # two looks at a file, a run's start and the comparison are to take less than a minute
_INTERVAL_SECONDS = 1  # less than the daemon's own 5: a tick follows the last at the daemon's next look


def publish_sensor(spec: FeedSpec) -> dg.SensorDefinition:
    """Moves the source table's new commits into the hub."""

    @dg.sensor(
        name=f"publish_{spec.name}",
        target=dg.AssetSelection.assets(hub_key(spec)).without_checks(),
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Each tick publishes new commits of {spec.source_table} to the hub for LPM_STREAM_TICK_SECONDS, then "
            f"reports table and hub, at most every {spec.reporting_window_seconds:g} s. It starts no runs; its "
            f"ticks show as skipped, with what they did as the reason."
        ),
        owners=spec.owners,
    )
    def publish(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return publish_tick(spec, context)

    return publish


def deliver_sensor(spec: FeedSpec) -> dg.SensorDefinition:
    """Moves messages from the hub into the companies' databases."""

    @dg.sensor(
        name=f"deliver_{spec.name}",
        target=dg.AssetSelection.assets(company_key(spec)).without_checks(),
        minimum_interval_seconds=_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Each tick delivers messages from the hub to the companies' databases for LPM_STREAM_TICK_SECONDS, "
            f"then reports the companies that received changes, each at most every "
            f"{spec.reporting_window_seconds:g} s, and adds partitions for newly registered ones. It starts no "
            f"runs; its ticks show as skipped, with what they did as the reason."
        ),
        owners=spec.owners,
    )
    def deliver(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return deliver_tick(spec, context)

    return deliver


def alerts_sensor(spec: FeedSpec) -> dg.SensorDefinition:
    """Looks for what is wrong with the feed, and tells people."""

    @dg.sensor(
        name=f"alerts_{spec.name}",
        minimum_interval_seconds=_ALERT_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Each tick looks for what is wrong (parked companies, gaps, failing checks, sensors and runs, and so "
            "on), keeps one incident for each cause and company, and sends what is due to the channels of "
            "LPM_STREAM_ALERT_URLS. It starts no runs. On the command line: lpm-stream alerts."
        ),
        owners=spec.owners,
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return alerts_tick(spec, context)

    return alerts


def legacy_sensor(spec: FeedSpec, job: dg.JobDefinition) -> dg.SensorDefinition:
    """Sees legacy files come, and has them compared."""

    @dg.sensor(
        name=files_sensor(spec.name),
        job=job,
        minimum_interval_seconds=_LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Looks where the legacy files are. Once new or changed ones grow no more, it starts job `{job.name}` "
            f"for the companies that they belong to: one run for all that a look finds."
        ),
        owners=spec.owners,
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return arrivals_tick(spec, context)

    return watch
