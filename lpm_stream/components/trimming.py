"""Trims Dagster's own storage, which by itself keeps every event, run and tick for ever.

Dagster deletes what a run has logged together with the run. For events outside runs, which is what the stream's
sensors report, it has nothing of the kind: they are deleted here from its tables, in SQLite as in PostgreSQL. What
its pages are drawn from stays whatever its age: the newest event of each kind of every asset and partition, the
newest evaluation of every check and partition, the runs that these belong to, partitions, and sensors' cursors.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster import DagsterEventType, RunsFilter
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunTagsTable

from lpm_stream.errors import LpmStreamError

_AT_ONCE = 2_000  # rows in one transaction: SQLite lets nobody else write meanwhile
_RUNS_AT_ONCE = 500

_Connect = Callable[[], AbstractContextManager[sa.Connection]]
_EVENTS = SqlEventLogStorageTable
_CHECKS = AssetCheckExecutionsTable


@dataclass(frozen=True)
class Trimmed:
    """What was deleted: numbers of runs, of events outside runs, of check evaluations."""

    runs: int
    events: int
    evaluations: int


def trim(
    instance: dg.DagsterInstance, keep_events: timedelta, keep_runs: timedelta, now: datetime | None = None
) -> Trimmed:
    """Deletes what is older than is to be kept. It may be stopped at any time, and several may do it at once.

    Args:
        instance: Dagster's.
        keep_events: how long events outside runs are kept.
        keep_runs: how long finished runs with all that they logged, evaluations of checks, and ticks are kept.
        now: the present.

    Raises:
        LpmStreamError: if Dagster keeps its events in something other than a SQL database.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise LpmStreamError(
            f"Dagster keeps its events in {type(storage).__name__}, which cannot be trimmed: "
            f"use SQLite or PostgreSQL"
        )
    now = now or datetime.now(UTC)
    events = _trim_events(storage, now - keep_events)
    evaluations = _trim_evaluations(storage, now - keep_runs)
    runs = _trim_runs(instance, storage, now - keep_runs)
    if instance.schedule_storage is not None:
        for state in instance.all_instigator_state():
            instance.purge_ticks(state.instigator_origin_id, state.selector_id, (now - keep_runs).timestamp())
    return Trimmed(runs, events, evaluations)


def _trim_events(storage: SqlEventLogStorage, before: datetime) -> int:
    """Deletes events outside runs. SQLite has each twice: as one of its run (none), and of its asset."""
    outside_runs = _EVENTS.c.run_id == RUNLESS_RUN_ID
    if isinstance(storage, SqliteEventLogStorage):
        own = _Walk(lambda: storage.run_connection(RUNLESS_RUN_ID), _EVENTS, _EVENTS.c.timestamp, outside_runs)
        own.delete(before, _newest_events(own.connect))
    walk = _Walk(storage.index_connection, _EVENTS, _EVENTS.c.timestamp, outside_runs)
    return walk.delete(before, _newest_events(walk.connect))


def _newest_events(connect: _Connect) -> set[int]:
    newest = sa.select(sa.func.max(_EVENTS.c.id)).where(_EVENTS.c.asset_key.is_not(None))
    newest = newest.group_by(_EVENTS.c.asset_key, _EVENTS.c.dagster_event_type, _EVENTS.c.partition)
    with connect() as connection:
        return set(connection.execute(newest).scalars())


def _trim_evaluations(storage: SqlEventLogStorage, before: datetime) -> int:
    walk = _Walk(storage.index_connection, _CHECKS, _CHECKS.c.evaluation_event_timestamp, sa.true())
    return walk.delete(before, _newest_evaluations(walk.connect))


def _newest_evaluations(connect: _Connect) -> set[int]:
    with connect() as connection:
        return set(connection.execute(_newest_evaluation_ids()).scalars())


def _newest_evaluation_ids() -> sa.Select[int]:
    newest = sa.select(sa.func.max(_CHECKS.c.id))
    return newest.group_by(_CHECKS.c.asset_key, _CHECKS.c.check_name, _CHECKS.c.partition)


@dataclass(frozen=True)
class _Walk:
    """The rows of a table in the order of their ids, which is that of time, since nothing has an index on time."""

    connect: _Connect
    table: sa.Table
    time: sa.Column[datetime]
    which: sa.ColumnElement[bool]

    def delete(self, before: datetime, but: Collection[int]) -> int:
        """Deletes the rows from before an instant, but for some; returns how many."""
        limit = before.astimezone(UTC).replace(tzinfo=None)
        ids = self.table.c.id
        deleted, behind = 0, -1
        while True:
            query = sa.select(ids, self.time).where(self.which, ids > behind).order_by(ids).limit(_AT_ONCE)
            with self.connect() as connection:
                rows = connection.execute(query).all()
                old = [number for number, time in rows if time < limit]
                gone = [number for number in old if number not in but]
                if gone:
                    connection.execute(self.table.delete().where(ids.in_(gone)))
                    if self.table is _EVENTS:
                        tags = AssetEventTagsTable
                        connection.execute(tags.delete().where(tags.c.event_id.in_(gone)))
            deleted += len(gone)
            if len(old) < _AT_ONCE:
                return deleted
            behind = rows[-1][0]


def _trim_runs(instance: dg.DagsterInstance, storage: SqlEventLogStorage, before: datetime) -> int:
    finished = RunsFilter(statuses=FINISHED_STATUSES, updated_before=before)
    kept = _runs_of_the_newest(storage.index_connection)
    old = [run_id for run_id in instance.get_run_ids(finished) if run_id not in kept]
    for run_id in old:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        if isinstance(storage, SqliteEventLogStorage):  # a file for each run, which Dagster leaves there, empty
            path = Path(storage.path_for_shard(run_id))
            for part in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                part.unlink(missing_ok=True)
    _delete_tags(instance, old)
    return len(old)


def _runs_of_the_newest(connect: _Connect) -> set[str]:
    """The runs without which an asset, a partition or a check would look as if it had never been."""
    kind = _EVENTS.c.dagster_event_type
    made = kind == DagsterEventType.ASSET_MATERIALIZATION.value
    seen = (kind == DagsterEventType.ASSET_OBSERVATION.value) & _EVENTS.c.partition.is_(None)  # no load's progress
    newest = sa.select(sa.func.max(_EVENTS.c.id)).where(made | seen)
    newest = newest.group_by(_EVENTS.c.asset_key, _EVENTS.c.dagster_event_type, _EVENTS.c.partition)
    of_events = sa.select(_EVENTS.c.run_id).where(_EVENTS.c.id.in_(newest))
    of_checks = sa.select(_CHECKS.c.run_id).where(_CHECKS.c.id.in_(_newest_evaluation_ids()))
    with connect() as connection:
        return {*connection.execute(of_events).scalars(), *connection.execute(of_checks).scalars()}


def _delete_tags(instance: dg.DagsterInstance, runs: list[str]) -> None:
    """Of deleted runs; in PostgreSQL they go with the run."""
    storage = instance.run_storage
    if isinstance(storage, SqlRunStorage):
        for start in range(0, len(runs), _RUNS_AT_ONCE):
            chunk = runs[start : start + _RUNS_AT_ONCE]
            with storage.connect() as connection:
                connection.execute(RunTagsTable.delete().where(RunTagsTable.c.run_id.in_(chunk)))
