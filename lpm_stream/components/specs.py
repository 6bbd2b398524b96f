"""What a feed's assets say about themselves before anything has run."""

import dagster as dg

from lpm_stream.components.keys import (
    companies_partitions,
    company_key,
    health_key,
    hub_key,
    legacy_key,
    source_key,
)
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.schema import COMMIT_VERSION
from lpm_stream.feed.spec import Column, FeedSpec
from lpm_stream.sensing import files_sensor

RUNBOOK = "docs/operations.md"  # what to do when something is wrong

_VERSION = dg.TableColumn(
    COMMIT_VERSION,
    type="int64",
    description="Version of the commit that the row is from.",
    constraints=dg.TableColumnConstraints(nullable=False),
)


def source_spec(spec: FeedSpec) -> dg.AssetSpec:
    """The source table, which somebody else writes."""
    return dg.AssetSpec(
        source_key(spec),
        description=(
            f"{spec.description}\n\n"
            f"The table that others write; its Change Data Feed is where the stream starts. Sensor "
            f"`publish_{spec.name}` reports its version and rows while it reads; *Observe* looks now."
        ),
        group_name=spec.name,
        kinds={"deltalake", "table"},
        owners=spec.owners,
        metadata={
            "dagster/column_schema": table_schema(spec),
            "dagster/table_name": spec.source_table,
            "dagster/storage_kind": "delta",
            **_promises(spec),
        },
    )


def hub_spec(spec: FeedSpec) -> dg.AssetSpec:
    """The feed's messages in the hub."""
    return dg.AssetSpec(
        hub_key(spec),
        deps=[source_key(spec)],
        description=(
            f"The changes of `{spec.source_table}` as messages, in commit order, each for one company "
            f"(`{spec.company_column}`).\n\n"
            f"Sensor `publish_{spec.name}` keeps it up to date. *Materialize* publishes until the table's newest "
            f"commit is in the hub."
        ),
        group_name=spec.name,
        kinds={"stream", spec.wire_format},
        owners=spec.owners,
        metadata={"wire_format": spec.wire_format, "schema_policy": spec.schema_policy},
    )


def company_spec(spec: FeedSpec) -> dg.AssetSpec:
    """The feed's table in each company's database."""
    return dg.AssetSpec(
        company_key(spec),
        deps=[hub_key(spec)],
        description=(
            f"Table `{spec.name}` in every company's own database, one partition a company: its rows of "
            f"`{spec.source_table}` and nobody else's.\n\n"
            f"Sensor `deliver_{spec.name}` keeps it up to date and reports a company that received changes at "
            f"most every {spec.reporting_window_seconds:g} s. *Materialize* on a partition delivers everything "
            f"that the hub holds for that company now; job `backfill_{spec.name}` loads it from the table. Its "
            f"checks are those of `companies/{spec.name}_health`."
        ),
        group_name=spec.name,
        kinds={"sql", "table"},
        owners=spec.owners,
        partitions_def=companies_partitions(spec),
        metadata={
            "dagster/column_schema": table_schema(spec, _VERSION),
            "dagster/table_name": spec.name,
            **_promises(spec),
            "reporting_window_seconds": spec.reporting_window_seconds,
        },
    )


def health_spec(spec: FeedSpec) -> dg.AssetSpec:
    """The checks' results, by company."""
    return dg.AssetSpec(
        health_key(spec),
        deps=[company_key(spec), *([legacy_key(spec)] if spec.legacy else [])],
        description=(
            f"Whether each company's table `{spec.name}` is complete and in time: its checks, a result for each "
            f"company. They are kept here, beside `companies/{spec.name}`, so that what they have found stands "
            f"until they run again. Job `check_{spec.name}` runs them; what to do when one is red: `{RUNBOOK}`."
        ),
        group_name=spec.name,
        kinds={"checks"},
        owners=spec.owners,
        partitions_def=companies_partitions(spec),
    )


def legacy_spec(spec: FeedSpec, form: LegacyFormat) -> dg.AssetSpec:
    """The legacy files, which somebody else writes."""
    return dg.AssetSpec(
        legacy_key(spec),
        description=(
            f"The flat files that companies get besides, one for each company and period ({form.period}). Sensor "
            f"`{files_sensor(spec.name)}` sees new ones and has job `check_{spec.name}` compare them with the "
            f"companies' tables; a file that was compared is reported here."
        ),
        group_name=spec.name,
        kinds={"csv", "sftp"},
        owners=spec.owners,
        partitions_def=companies_partitions(spec),
        metadata={
            "file_name": form.file_name,
            "period": form.period,
            "time_zone": form.time_zone,
            "grace_seconds": form.grace_seconds,
            "tolerance_rows": form.tolerance_rows,
        },
    )


def _promises(spec: FeedSpec) -> dict[str, str | float]:
    return {
        "company_column": spec.company_column,
        "primary_key": ", ".join(spec.primary_key),
        "event_time_column": spec.event_time_column,
        "schema_policy": spec.schema_policy,
        "slo_seconds": spec.slo_seconds,
    }


def table_schema(spec: FeedSpec, *more: dg.TableColumn) -> dg.TableSchema:
    """The contract as Dagster shows it, with further columns behind its own."""
    return dg.TableSchema(
        columns=[*(_column(spec, column) for column in spec.columns), *more],
        constraints=dg.TableConstraints(other=[f"primary key: {', '.join(spec.primary_key)}"]),
    )


def _column(spec: FeedSpec, column: Column) -> dg.TableColumn:
    roles = {
        "company": column.name == spec.company_column,
        "primary key": column.name in spec.primary_key,
        "event time": column.name == spec.event_time_column,
    }
    notes = [role for role, has_it in roles.items() if has_it]
    if column.max_length is not None:
        notes.append(f"at most {column.max_length} characters")
    return dg.TableColumn(
        column.name,
        type=column.type_name,
        description=column.description,
        constraints=dg.TableColumnConstraints(
            nullable=column.nullable, unique=spec.primary_key == (column.name,), other=notes
        ),
    )
