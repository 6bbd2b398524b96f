"""Alerts under Dagster: a sensor's tick, and the causes that only Dagster knows of: failing sensors and runs.

Failed runs are looked up each time. A run failure sensor would take five of them a tick, fall behind when a
backfill of hundreds of companies fails, and not notice that a later run of the same made up for it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState

from lpm_stream.alerts.cause import RUN_FAILED, SENSOR_FAILING, Cause
from lpm_stream.alerts.pages import run_page, sensor_page
from lpm_stream.alerts.raised import PUBLISHING_STOPPED, read_raised
from lpm_stream.alerts.run import Round, run
from lpm_stream.components.keys import company_key, hub_key, source_key
from lpm_stream.components.partitions import by_partition_key, partition_key
from lpm_stream.components.stopping import for_seconds
from lpm_stream.control import entries, quarantine, registry
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.sensing import ONBOARD_JOB, ONBOARD_OP, failing, is_job_of, is_sensor_of, replay_job_name
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream

_SENDS_FOR_SECONDS = 25  # one more message may take as long again, and Dagster ends a tick after 60 s
_RUNS = 1_000
_A_RUN_COUNTS_FOR = timedelta(days=1)
_JUST_BEGUN_AFTER = timedelta(minutes=3)


def alerts_tick(spec: FeedSpec, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Looks for what is wrong, updates the incidents, sends what is due.

    The first tick after a pause does nothing: the other sensors have not begun their work either.

    Raises:
        LpmStreamError: if the control store cannot be opened, or the setting of the channels is wrong.
    """
    now = datetime.now(UTC)
    cursor = now.isoformat()
    last = datetime.fromisoformat(context.cursor) if context.cursor else None
    if last is None or now - last > _JUST_BEGUN_AFTER:
        return dg.SensorResult(cursor=cursor, skip_reason="just begun: it looks with its next tick")
    with open_stream(Settings.load(), spec, needs_hub=False) as stream:
        causes = list(dagsters_causes(stream, context.instance, now))
        done = run(stream, causes, for_seconds(_SENDS_FOR_SECONDS))
    return dg.SensorResult(cursor=cursor, skip_reason=_what_it_did(done))


def dagsters_causes(stream: Stream, instance: dg.DagsterInstance, now: datetime) -> Iterator[Cause]:
    """What is wrong with a feed's sensors and runs."""
    raised = {cause.kind for cause in read_raised(stream.store, stream.spec.name)}
    told_already = {f"publish_{stream.spec.name}"} if PUBLISHING_STOPPED in raised else set()
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        name = state.instigator_name
        if is_sensor_of(stream.spec.name, name) and name not in told_already and state.is_running:
            yield from _sensor_failing(stream.spec, instance, state)
    yield from _runs_failed(stream, instance, now)


def _sensor_failing(spec: FeedSpec, instance: dg.DagsterInstance, state: InstigatorState) -> Iterator[Cause]:
    found = failing(instance, state)
    if found is None:
        return
    name = state.instigator_name
    yield Cause(
        kind=f"{SENSOR_FAILING}:{name}",
        company="",
        what=f"sensor {name} fails: {found.error}",
        since=found.since,
        affected="every company of the feed, as far as nothing else does the sensor's work",
        likely="its ticks show the whole error",
        command=f"lpm-stream status --feed {spec.name}",
        page=sensor_page(name),
    )


def _runs_failed(stream: Stream, instance: dg.DagsterInstance, now: datetime) -> Iterator[Cause]:
    """The newest failed run of each job and partition, unless a later one succeeded or its company was removed."""
    since = now - _A_RUN_COUNTS_FOR
    failures = RunsFilter(statuses=[DagsterRunStatus.FAILURE], updated_after=since)
    newest: dict[tuple[str, str], RunRecord] = {}
    for record in instance.get_run_records(failures, limit=_RUNS):  # the newest first
        if _is_of(stream.spec, record):
            newest.setdefault(_job_and_partition(record), record)
    companies = by_partition_key(registry.registered(stream.store, stream.spec.name)) if newest else {}
    removed = _removed_partitions(stream) if newest else set()
    quarantined = quarantine.counts(stream.store, stream.spec.name) if newest else {}
    for (job, partition), record in newest.items():
        if job != ONBOARD_JOB and partition in removed:  # an onboarding was to bring it back
            continue
        company = companies.get(partition, "")
        if company and job == replay_job_name(stream.spec.name) and company not in quarantined:
            continue  # its rows were discarded, or replayed by other means
        if _was_made_up_for(stream, instance, record):
            continue
        of = f" for company {company!r}" if company else f" for partition {partition!r}" if partition else ""
        yield Cause(
            kind=_run_kind(job, "" if company else partition),
            company=company,
            what=f"a run of {job}{of} has failed",
            since=record.update_timestamp,
            affected=f"company {company!r}" if company else "whoever waits for what it was to do",
            likely="the run's log shows the error",
            command=f"lpm-stream status --feed {stream.spec.name}",
            page=run_page(record.dagster_run.run_id),
        )


def _removed_partitions(stream: Stream) -> set[str]:
    companies = (entry.company for entry in entries.read_all(stream.store))
    return {partition_key(company.id) for company in companies if company.state == "offboarding"}


def _run_kind(job: str, partition: str) -> str:
    return f"{RUN_FAILED}:{job}:{partition}"[:100].rstrip(":")


def _is_of(spec: FeedSpec, record: RunRecord) -> bool:
    selected = record.dagster_run.asset_selection or frozenset()
    ours = {source_key(spec), hub_key(spec), company_key(spec)}
    return bool(selected & ours) or is_job_of(spec.name, record.dagster_run.job_name)


def _job_and_partition(record: RunRecord) -> tuple[str, str]:
    run = record.dagster_run
    if run.job_name == ONBOARD_JOB:
        return run.job_name, partition_key(_to_onboard(record))
    return run.job_name, run.tags.get("dagster/partition", "")


def _to_onboard(record: RunRecord) -> str:
    config: Any = record.dagster_run.run_config
    return str(config["ops"][ONBOARD_OP]["config"]["company"])


def _was_made_up_for(stream: Stream, instance: dg.DagsterInstance, record: RunRecord) -> bool:
    job, partition = _job_and_partition(record)
    if job == ONBOARD_JOB:  # the command line may have onboarded it since
        return entries.is_onboarded(stream.store, _to_onboard(record))
    later = RunsFilter(
        job_name=job,
        statuses=[DagsterRunStatus.SUCCESS],
        tags={"dagster/partition": partition} if partition else {},
        updated_after=record.update_timestamp,
    )
    return bool(instance.get_run_records(later, limit=1))


def _what_it_did(done: Round) -> str:
    changed = f"{done.update.opened} incidents opened, {done.update.resolved} resolved, {done.sent} alerts sent"
    return "; ".join([changed, *done.problems])
