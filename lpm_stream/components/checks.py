"""The checks of company tables: their declaration, the job that runs them for all, its schedules."""

import warnings

import dagster as dg
from pydantic import Field

from lpm_stream.checks.result import THOROUGH, check_names
from lpm_stream.components.keys import companies_partitions, health_key, source_key
from lpm_stream.feed.checks import CheckName
from lpm_stream.feed.spec import FeedSpec

_HOUR = 60
_THOROUGHLY_AT = 17  # minutes past the hour, when the cheap checks rarely run


class CheckConfig(dg.Config):
    """Which checks of which companies."""

    companies: list[str] = Field(default=[], description="Ids of companies; none: all.")
    checks: list[str] = Field(default=[], description="Names of checks; none: all.")


def check_op(spec: FeedSpec) -> str:
    """The name of the op that runs the checks."""
    return f"check_{spec.name}_companies"


def check_job_name(spec: FeedSpec) -> str:
    """The name of the job that runs the checks."""
    return f"check_{spec.name}"


def check_specs(spec: FeedSpec) -> list[dg.AssetCheckSpec]:
    """The checks of the company table, each partitioned as the table is."""
    with warnings.catch_warnings():  # partitioned checks are a preview; what is used of them is tested
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                name,
                asset=health_key(spec),
                description=_said(spec, name),
                additional_deps=_deps(spec, name),
                partitions_def=companies_partitions(spec),
            )
            for name in check_names(spec)
        ]


def _deps(spec: FeedSpec, name: CheckName) -> list[dg.AssetKey]:
    return [source_key(spec)] if name == THOROUGH else []


def _said(spec: FeedSpec, name: CheckName) -> str:
    checks = spec.checks
    said: dict[CheckName, str] = {
        "not_parked": f"The company is not parked for more than {checks.grace_seconds:g} s.",
        "nothing_quarantined": f"At most {checks.quarantined_rows:,} rows of the company are in quarantine.",
        "fresh": "Nothing that was committed for the company waits undelivered for more than "
        f"{spec.slo_seconds + checks.grace_seconds:g} s. A company without traffic passes.",
        "latency_slo": f"Commit to applied takes at most {spec.slo_seconds:g} s at p99 (hoped for: "
        f"{checks.stretch_seconds:g} s), over the last {checks.latency_window_seconds:g} s.",
        "complete_against_legacy": "Each legacy file agrees with the table, row by row but for what is "
        "explained, and none is overdue.",
        "sooner_than_legacy": "Each record of the legacy files was in the table before its file came.",
        "complete_against_source": f"The table holds exactly the company's rows of `{spec.source_table}`.",
    }
    return said[name]


def company_checks(spec: FeedSpec) -> dg.AssetChecksDefinition:
    """The checks as somebody starts them on the asset's page: a run for each chosen partition."""

    @dg.multi_asset_check(specs=check_specs(spec), name=f"check_{spec.name}_now", can_subset=True)
    def check(context: dg.AssetCheckExecutionContext):  # type: ignore[no-untyped-def]  # noqa: ANN202 - Dagster reads the annotation
        from lpm_stream.components.checking import check_now  # noqa: PLC0415 - it brings DuckDB

        names = [key.name for key in context.selected_asset_check_keys]
        check_now(spec, context.op_execution_context, companies=(), names=names)
        yield from ()  # the results are logged with their partition, which no output could carry

    return check


def check_job(spec: FeedSpec) -> dg.JobDefinition:
    """Runs checks for all companies in one run, with a result for each."""

    @dg.op(name=check_op(spec), description="Runs checks and reports them per company.")
    def check(context: dg.OpExecutionContext, config: CheckConfig) -> None:
        from lpm_stream.components.checking import check_now  # noqa: PLC0415 - it brings DuckDB

        check_now(spec, context, companies=config.companies, names=config.checks)

    @dg.job(
        name=check_job_name(spec),
        description=(
            f"Runs the checks of table `{spec.name}` for all companies in one run, or for those that its "
            f"configuration names. Legacy files that are due are compared first."
        ),
    )
    def job() -> None:
        check()

    return job


def check_schedules(spec: FeedSpec, job: dg.JobDefinition) -> list[dg.ScheduleDefinition]:
    """The cheap checks often, the comparison of whole tables now and then, as the feed says."""
    cheap = [name for name in check_names(spec) if name != THOROUGH]
    often, now_and_then = cron(spec.checks.every_minutes), cron(spec.checks.thorough_every_minutes, _THOROUGHLY_AT)
    return [
        _schedule(spec, job, "often", often, cheap),
        _schedule(spec, job, "thoroughly", now_and_then, [THOROUGH]),
    ]


def cron(minutes: int, past: int = 0) -> str:
    """Every so many minutes, which divide the hour or are hours that divide the day, from a minute past on."""
    if minutes >= _HOUR:
        hours = ",".join(map(str, range(0, 24, minutes // _HOUR)))
        return f"{past} {'*' if minutes == _HOUR else hours} * * *"
    first = past % minutes
    return f"{first}-59/{minutes} * * * *" if first else f"*/{minutes} * * * *"


def _schedule(
    spec: FeedSpec, job: dg.JobDefinition, how: str, cron: str, checks: list[CheckName]
) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{job.name}_{how}",
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        run_config=dg.RunConfig(ops={check_op(spec): CheckConfig(checks=list(checks))}),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"For all companies: {', '.join(checks)}.",
        owners=spec.owners,
    )
