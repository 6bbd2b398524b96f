"""What a run of checks does: it logs one evaluation for each check and company, a scheduled one if it is news.

A run has a result for every partition, which a check's own output could not have.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from lpm_stream.alerts.raised import command_after
from lpm_stream.checks.result import Result
from lpm_stream.checks.run import run_checks
from lpm_stream.checks.tell import Teller
from lpm_stream.components.keys import companies_partitions, health_key, legacy_key
from lpm_stream.components.partitions import company_of, new_partitions, partition_key
from lpm_stream.components.repeats import is_news, newest_evaluations
from lpm_stream.components.specs import RUNBOOK
from lpm_stream.components.tags import tag_company
from lpm_stream.control import ledger, registry
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.report import Reconciliation
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream


def check_now(
    spec: FeedSpec, context: dg.OpExecutionContext, *, companies: Sequence[str], names: Sequence[str]
) -> None:
    """Runs checks and logs their results.

    Args:
        spec: the feed.
        context: of the run; if that has a partition, it says the company.
        companies: otherwise, which; all if there are none.
        names: which checks; all if there are none.

    Raises:
        LpmStreamError: as `run_checks` does.
    """
    with open_stream(Settings.load(), spec) as stream:
        registered = registry.registered(stream.store, stream.spec.name)
        if context.has_partition_key:
            companies = [company_of(registered, context.partition_key)]
        if len(companies) == 1:
            tag_company(context, companies[0])
        _add_partitions(stream, context.instance)
        failed, teller = 0, Teller(stream)
        results = run_checks(
            stream, companies or None, names or None, lambda done: _report_files(spec, context, done)
        )
        is_worth_it = _whats_news(stream, context)
        for result in results:
            if is_worth_it(result):
                context.log_event(evaluation(spec, result))  # type: ignore[arg-type]  # it takes them, its types lag
            teller.tell(result)
            failed += not result.passed
        context.log.info("%d checks failed", failed)


def _whats_news(stream: Stream, context: dg.OpExecutionContext) -> Callable[[Result], bool]:
    """What a schedule or sensor had checked is reported if it is news; what somebody asked for, always."""
    if context.run.tags.keys().isdisjoint({"dagster/schedule_name", "dagster/sensor_name"}):
        return lambda _: True
    now = datetime.now(UTC)
    reported = newest_evaluations(context.instance, health_key(stream.spec))
    active = ledger.read(stream.store, stream.spec.name, now - timedelta(hours=1)).keys()
    return lambda result: is_news(result, reported, active, now)


def _add_partitions(stream: Stream, instance: dg.DagsterInstance) -> None:
    """A company may be checked before anything was delivered to it, and so before Dagster knows it."""
    if news := new_partitions(stream, instance):
        name = companies_partitions(stream.spec).name
        instance.add_dynamic_partitions(str(name), news)


def _report_files(spec: FeedSpec, context: dg.OpExecutionContext, done: Sequence[Reconciliation]) -> None:
    """The newest file of each company that was compared."""
    newest = {one.company: one for one in done if one.file is not None and one.verdict != "unread"}
    for company, one in newest.items():
        context.log_event(
            dg.AssetMaterialization(
                legacy_key(spec), partition=partition_key(company), metadata=file_metadata(one, done)
            )
        )


def file_metadata(newest: Reconciliation, done: Sequence[Reconciliation]) -> Mapping[str, dg.MetadataValue]:
    """Of a company's legacy files: the newest, and how many were compared with it."""
    files = sum(one.company == newest.company and one.file is not None for one in done)
    return {
        "file": dg.MetadataValue.text(newest.file or ""),
        "period_start": dg.MetadataValue.timestamp(newest.period.start),
        "verdict": dg.MetadataValue.text(newest.verdict),
        "dagster/partition_row_count": dg.MetadataValue.int(newest.faults.rows_in_file),
        "bytes": dg.MetadataValue.int(newest.size),
        "late_seconds": dg.MetadataValue.float(float(newest.late_seconds)),
        "files_compared": dg.MetadataValue.int(files),
    }


def evaluation(spec: FeedSpec, result: Result) -> dg.AssetCheckEvaluation:
    """A result as Dagster keeps it."""
    metadata = {name: _metadata(value) for name, value in result.values.items()}
    if result.examples:
        metadata["examples"] = dg.MetadataValue.table([dg.TableRecord(dict(one)) for one in result.examples])
    if not result.passed:
        metadata["next"] = dg.MetadataValue.text(command_after(spec.name, result.company))
        metadata["runbook"] = dg.MetadataValue.text(f"{RUNBOOK}, A check is red")
    return dg.AssetCheckEvaluation(
        asset_key=health_key(spec),
        check_name=result.name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity[result.severity],
        description=result.description,
        metadata=metadata,
        partition=partition_key(result.company),
    )


def _metadata(value: object) -> dg.MetadataValue:
    match value:
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(value)
        case datetime():
            return dg.MetadataValue.timestamp(value)
        case _:
            return dg.MetadataValue.text(str(value))
