"""The jobs that people start: loading companies from the table, and emptying their quarantine."""

import shlex
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from lpm_stream.components.actor import acting
from lpm_stream.components.keys import companies_partitions, company_key
from lpm_stream.components.loading import NOBODY, discard_now, replay_now, resync_now
from lpm_stream.components.partitions import company_id
from lpm_stream.components.tags import tag_company
from lpm_stream.delivery.replay import Replayed
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.sensing import replay_job_name


class CompanyConfig(dg.Config):
    """How a company's table is brought up to date."""

    load_from: Literal["stream", "table"] = Field(
        default="stream",
        description="stream: deliver what the hub holds for it now. table: load it from the source table, while "
        "its stream is held; for a new company, or one that lacks something.",
    )
    rebuild: bool = Field(
        default=False,
        description="With load_from: table, build the company's table anew beside the old one, and swap.",
    )


class QuarantineConfig(dg.Config):
    """Which of a company's rows in quarantine."""

    ids: list[str] = Field(default=[], description="Their full ids, as lpm-stream quarantine shows; none: all.")


def company_op(spec: FeedSpec) -> str:
    """The name of the op behind the company asset."""
    return f"deliver_{spec.name}_now"


def backfill_job(spec: FeedSpec) -> Any:  # Dagster does not export its type
    """Loads companies, one partition each, from the table."""
    return dg.define_asset_job(
        f"backfill_{spec.name}",
        selection=dg.AssetSelection.assets(company_key(spec)).without_checks(),
        config=dg.RunConfig(ops={company_op(spec): CompanyConfig(load_from="table")}),
        description=(
            f"Loads a company's rows from `{spec.source_table}` into its database while the stream goes on for "
            f"everybody else. Choose one partition, a range, or all; it can be stopped and run again at any time."
        ),
    )


def quarantine_jobs(spec: FeedSpec) -> list[dg.JobDefinition]:
    """Replays or discards a company's rows in quarantine, or discards those that name no company."""
    return [_replay_job(spec), _discard_job(spec), _discard_nobodys_job(spec)]


def _replay_job(spec: FeedSpec) -> dg.JobDefinition:
    @dg.op(name=f"replay_{spec.name}_rows")
    def replay(context: dg.OpExecutionContext, config: QuarantineConfig) -> None:
        tag_company(context, company_id(context.partition_key))
        with acting(context):
            done = replay_now(spec, context.partition_key, config.ids)
        counts = {"delivered": done.applied, "superseded": done.superseded, "still_refused": done.refused}
        if done.refused:
            raise dg.Failure(_still_refused(done), metadata=counts, allow_retries=False)
        context.add_output_metadata(counts)

    @dg.job(
        name=replay_job_name(spec.name),
        partitions_def=companies_partitions(spec),
        description=(
            "Delivers what the table holds now of a company's rows in quarantine. A row that was corrected, moved "
            "or deleted since stays so. The run fails if rows are still refused; those that are not are delivered."
        ),
    )
    def job() -> None:
        replay()

    return job


def _still_refused(done: Replayed) -> str:
    company = shlex.quote(done.company)
    return (
        f"{done.refused:,} rows of company {done.company!r} are still refused ({done.applied:,} delivered, "
        f"{done.superseded:,} superseded): lpm-stream quarantine list --company {company} says why; mend that and "
        f"replay again, or discard them"
    )


def _discard_job(spec: FeedSpec) -> dg.JobDefinition:
    @dg.op(name=f"discard_{spec.name}_rows")
    def discard(context: dg.OpExecutionContext, config: QuarantineConfig) -> None:
        company = company_id(context.partition_key)
        tag_company(context, company)
        with acting(context):
            context.add_output_metadata({"discarded": discard_now(spec, company, config.ids)})

    @dg.job(
        name=f"discard_quarantine_{spec.name}",
        partitions_def=companies_partitions(spec),
        description="Removes a company's rows from quarantine for good.",
    )
    def job() -> None:
        discard()

    return job


def _discard_nobodys_job(spec: FeedSpec) -> dg.JobDefinition:
    @dg.op(name=f"discard_nobodys_{spec.name}_rows")
    def discard(context: dg.OpExecutionContext, config: QuarantineConfig) -> None:
        with acting(context):
            context.add_output_metadata({"discarded": discard_now(spec, NOBODY, config.ids)})

    @dg.job(
        name=f"discard_nobodys_quarantine_{spec.name}",
        description=(
            "Removes the rows that name no company from quarantine for good. They cannot be replayed: once they "
            "are corrected in the table, they arrive as their company's."
        ),
    )
    def job() -> None:
        discard()

    return job


def resync_job(spec: FeedSpec) -> dg.JobDefinition:
    """Begins the feed anew after a gap."""

    @dg.op(name=f"begin_{spec.name}_anew")
    def begin_anew(context: dg.OpExecutionContext) -> None:
        with acting(context):
            loaded = resync_now(spec, context)
        context.log.info("%d companies loaded", loaded)

    @dg.job(
        name=f"resync_{spec.name}",
        description=(
            f"After a gap: sets the cursor to the newest version of `{spec.source_table}`, loads all companies. "
            f"Nothing is delivered to a company until it is loaded."
        ),
    )
    def job() -> None:
        begin_anew()

    return job
