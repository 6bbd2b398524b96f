"""Which results of scheduled checks are worth an event in Dagster.

A check of every company every five minutes is over a million results a day for a thousand companies, nearly all
saying what the last one said. A result is reported when its verdict is a new one, and otherwise now and then.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

from lpm_stream.checks.result import Result
from lpm_stream.partition import partition_key

_AGAIN_AFTER = timedelta(hours=1)
_IDLE_AGAIN_AFTER = timedelta(days=1)  # of a company that passes and receives nothing
_EARLY = timedelta(minutes=2)  # runs do not begin to the second


@dataclass(frozen=True)
class Reported:
    """The newest evaluation that Dagster has of a check and partition."""

    passed: bool
    at: datetime


def newest_evaluations(instance: dg.DagsterInstance, asset: dg.AssetKey) -> Mapping[tuple[str, str], Reported]:
    """Check and partition to what Dagster has of them; nothing where it does not keep it in a SQL database."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return {}
    table = AssetCheckExecutionsTable
    newest = sa.select(sa.func.max(table.c.id)).where(table.c.asset_key == asset.to_string())
    newest = newest.group_by(table.c.check_name, table.c.partition)
    query = sa.select(
        table.c.check_name, table.c.partition, table.c.execution_status, table.c.evaluation_event_timestamp
    ).where(table.c.id.in_(newest), table.c.partition.is_not(None))
    verdicts = {
        AssetCheckExecutionRecordStatus.SUCCEEDED.value: True,
        AssetCheckExecutionRecordStatus.FAILED.value: False,
    }
    with storage.index_connection() as connection:
        rows = connection.execute(query).all()
    return {
        (check, partition): Reported(verdicts[status], at.replace(tzinfo=UTC))
        for check, partition, status, at in rows
        if status in verdicts
    }


def is_news(
    result: Result, reported: Mapping[tuple[str, str], Reported], active: Collection[str], now: datetime
) -> bool:
    """Whether a result is to be reported.

    Args:
        result: what a check says of a company.
        reported: as from `newest_evaluations`.
        active: companies that received something within the last hour.
        now: the present.
    """
    last = reported.get((result.name, partition_key(result.company)))
    if last is None or last.passed != result.passed:
        return True
    idle = result.passed and result.company not in active
    return now - last.at >= (_IDLE_AGAIN_AFTER if idle else _AGAIN_AFTER) - _EARLY
