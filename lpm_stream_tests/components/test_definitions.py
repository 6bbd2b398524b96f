"""What Dagster loads, as a summary that a reviewer can read."""

from typing import Any

import dagster as dg

from lpm_stream.components.specs import company_spec, source_spec
from lpm_stream.definitions import defs as load
from lpm_stream_tests.example import SPEC


def summary(repository: dg.RepositoryDefinition) -> dict[str, Any]:
    graph = repository.asset_graph
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        assets[key.to_user_string()] = {
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": str(node.partitions_def) if node.partitions_def else None,
            "can be": "materialized" if node.is_materializable else "observed" if node.is_observable else "shown",
            "metadata": sorted(name for name in node.metadata if not name.startswith("dagster/component")),
        }
    sensors = {
        sensor.name: {
            "status": sensor.default_status.value,
            "interval": sensor.minimum_interval_seconds,
            "keeps up to date": targets(sensor, graph),
        }
        for sensor in repository.sensor_defs
    }
    return {
        "assets": assets,
        "sensors": sensors,
        "checks": {
            key.name: {
                "partitions": str(graph.get(key).partitions_def),
                "looks at": sorted(parent.to_user_string() for parent in graph.get(key).parent_entity_keys),
            }
            for key in sorted(graph.asset_check_keys)
        },
        "jobs": sorted(repository.job_names),
        "schedules": {
            schedule.name: {"cron": schedule.cron_schedule, "status": schedule.default_status.value}
            for schedule in repository.schedule_defs
        },
    }


def targets(sensor: dg.SensorDefinition, graph: Any) -> list[str]:
    if not sensor.targets:
        return []
    job: Any = sensor.job
    if job.name in {"check_tdr", "onboard_company"}:  # they tell of assets and make none
        return []
    return sorted(key.to_user_string() for key in job.selection.resolve(graph))


def test_definitions(snapshot):
    assert summary(load().get_repository_def()) == snapshot


def test_the_contract_is_shown():
    schema = source_spec(SPEC).metadata["dagster/column_schema"]
    columns = {one.name: one for one in schema.columns}
    assert list(columns) == SPEC.column_names
    assert columns["id"] == dg.TableColumn(
        "id",
        type="string",
        description="key",
        constraints=dg.TableColumnConstraints(
            nullable=False, unique=True, other=["primary key", "at most 40 characters"]
        ),
    )
    assert columns["customer"].constraints.other[0] == "company"
    assert columns["ordered_at"].constraints.other == ["event time"]
    assert columns["amount"].constraints.nullable
    assert schema.constraints.other == ["primary key: id"]


def test_company_tables_have_the_version_too():
    schema = company_spec(SPEC).metadata["dagster/column_schema"]
    assert [one.name for one in schema.columns] == [*SPEC.column_names, "_commit_version"]
