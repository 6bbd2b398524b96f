"""The comparison of legacy files with the companies' tables: of those there are, and of those there should be."""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lpm_stream.audit.scratch import Scratch, scratch_space
from lpm_stream.audit.table import pin
from lpm_stream.control import reconciliations, registry
from lpm_stream.control.registry import Served
from lpm_stream.errors import LegacyError, LpmStreamError, NoDatabaseError, TargetFaultError
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.schema import COMMIT_VERSION
from lpm_stream.legacy.commits import Commits
from lpm_stream.legacy.compare import compare, count_faults, examples
from lpm_stream.legacy.explain import Case, explain, explained
from lpm_stream.legacy.lines import Lines
from lpm_stream.legacy.listing import Absent, LegacyFile, Listing, absent, list_files
from lpm_stream.legacy.location import Location
from lpm_stream.legacy.names import period_at
from lpm_stream.legacy.records import Records
from lpm_stream.legacy.report import Faults, Reconciliation, Verdict
from lpm_stream.legacy.sooner import sooner
from lpm_stream.legacy.stage import STORED, WITHIN, stage_file, stage_others, stage_period
from lpm_stream.legacy.stored import Target, stored_rows
from lpm_stream.legacy.text import Text
from lpm_stream.legacy.values import compared, from_file
from lpm_stream.stream import Stream

_MEMORY = "128MB"  # of DuckDB; more is spilled

Done = Callable[[Reconciliation], None]


def declared_format(stream: Stream) -> LegacyFormat:
    """The format of the feed's legacy files.

    Raises:
        LpmStreamError: if it declares none.
    """
    if stream.spec.legacy is None:
        raise LpmStreamError(f"feed {stream.spec.name} has no legacy files: declare legacy: in its defs.yaml")
    return stream.spec.legacy


def look(stream: Stream, location: Location, now: datetime, before: Listing | None = None) -> Listing:
    """Which files there are of the registered companies; `before` is an earlier look.

    Raises:
        LegacyError: if they cannot be listed.
    """
    companies = registry.registered(stream.store, stream.spec.name)
    return list_files(location, declared_format(stream), companies, now, before.look if before else None)


def reconcile(
    stream: Stream,
    location: Location,
    listing: Listing,
    now: datetime,
    *,
    companies: Collection[str] | None = None,
    paths: Collection[str] | None = None,
    overdue_after: datetime | None = None,
    since: datetime | None = None,
    done: Done | None = None,
) -> list[Reconciliation]:
    """Compares files with what was streamed, and keeps the results in the control store.

    Args:
        stream: the feed with its parts.
        location: where the files are.
        listing: which there are, from `look`.
        now: an aware instant.
        companies: whose files; all registered companies' if None.
        paths: which files; None: all, and the periods that lack one besides.
        overdue_after: where `paths` names files, the periods besides that lack one and end after this instant.
        since: only periods that end after this instant.
        done: told of each result.

    Returns:
        A result for each file and overdue period, in the order of the periods. What could not be read is among
        them as `unread`, and what still grows as `waiting`; these two replace no result that the store has.

    Raises:
        SourceError: if the source table cannot be read.
        LpmStreamError: if the feed declares no legacy files.
    """
    form = declared_format(stream)
    served = registry.served(stream.store, stream.settings, stream.spec.name)
    chosen = sorted(served.keys() if companies is None else served.keys() & set(companies))
    contracts = {one.entitlement.groups: one.entitlement.contract(stream.spec) for one in served.values()}
    works = {
        groups: _Work(replace(stream, spec=spec), location=location, listing=listing, served=served, now=now)
        for groups, spec in contracts.items()
    }
    tasks: list[LegacyFile | Absent] = [
        file
        for file in listing.files
        if file.company in chosen
        and (paths is None or file.entry.path in paths)
        and (since is None or file.period.end > since)
    ]
    if paths is None:
        tasks += absent(form, listing, chosen, now, since)
    elif overdue_after is not None:
        tasks += absent(form, listing, chosen, now, not_before=overdue_after)
    tasks.sort(key=lambda task: (task.period.start, task.company))
    results: list[Reconciliation] = []
    for task in tasks:
        work = works[served[task.company].entitlement.groups]
        result = work.file(task) if isinstance(task, LegacyFile) else work.absent(task)
        if result is None:
            continue
        reconciliations.record(stream.store, result)
        results.append(result)
        if done:
            done(result)
    return results


class _Work:
    """One pass over files of companies that get the same columns."""

    def __init__(
        self,
        stream: Stream,
        *,
        location: Location,
        listing: Listing,
        served: Mapping[str, Served],
        now: datetime,
    ) -> None:
        self._stream = stream
        self._form = form = declared_format(stream)
        self._location = location
        self._listing = listing
        self._served = served
        self._now = now
        self._spec = compared(stream.spec, form)
        self._commits = Commits(pin(stream.spec, stream.table, None, None))
        self._files = {(file.company, file.period.start): file for file in listing.files}

    def absent(self, task: Absent) -> Reconciliation | None:
        """The result for a period without a file; None where it needs none."""
        try:
            if self._form.empty_periods == "none" and not self._has_rows(task):
                return None
        except TargetFaultError as error:
            return self._result(task, "unread", problem=str(error))
        late = (self._now - task.due).total_seconds()
        problem = f"there is no file; it was due at {task.due.isoformat(timespec='seconds')}"
        return self._result(task, "late", problem=problem, late_seconds=late)

    def file(self, file: LegacyFile) -> Reconciliation:
        """The result for a file."""
        if file.entry.path in self._listing.growing:
            return self._result(file, "waiting", problem="the file may still be growing")
        try:
            with scratch_space(self._stream.settings.home / "scratch") as scratch:
                return self._compared(scratch, file)
        except (LegacyError, TargetFaultError) as error:
            return self._result(file, "unread", problem=str(error))

    def _compared(self, scratch: Scratch, file: LegacyFile) -> Reconciliation:
        db, spec, form = scratch.db, self._spec, self._form
        db.execute(f"SET memory_limit = '{_MEMORY}'")
        target = Target(file.company, self._served[file.company].database)
        with db.cursor() as own, ThreadPoolExecutor(1) as beside, suppress(NoDatabaseError):
            staged = beside.submit(self._staged, own, file)  # both sides at once: they keep a core busy each
            stage_period(db, spec, form, target, file.period)
        records, problem, cut_short = staged.result()
        with suppress(NoDatabaseError):  # right for a company that has received nothing: all rows are missing
            stage_others(db, spec, form, target)
        compare(db, spec, cut_short=cut_short)
        explain(db, spec, form, self._case(file))
        counts = count_faults(db)
        faults = Faults(
            rows_in_file=records.count,
            rows_in_table=scratch.row_count(f"{STORED} WHERE {WITHIN}"),
            missing=counts.get("missing", 0),
            extra=counts.get("extra", 0),
            different=counts.get("different", 0),
            broken=records.broken.count,
            explained=explained(db),
        )
        failed = problem is not None or faults.unexplained > form.tolerance_rows
        return self._result(
            file,
            "failed" if failed else "passed",
            faults=faults,
            problem=problem,
            examples=examples(db, spec, form, target, self._rows(file)),
            broken=tuple(records.broken.examples),
            late_seconds=self._late(file),
            sooner=sooner(
                db, spec, self._stream.store, file.company, commits=self._commits, arrived=file.entry.modified
            ),
        )

    def _staged(self, db: duckdb.DuckDBPyConnection, file: LegacyFile) -> tuple[Records, str | None, bool]:
        """The records now in DuckDB, what is wrong with the file as a whole, and whether it lacks its end."""
        with self._location.reading(file.entry.path) as opened:
            lines = Lines(self._form, Text(opened, self._form))
            records = Records(self._form, lines)
            stage_file(db, self._spec, self._form, records)
        if lines.problem is None and lines.announced not in {None, records.count}:
            return records, f"the trailer says {lines.announced:,} records, the file has {records.count:,}", False
        return records, lines.problem, lines.problem is not None

    def _case(self, file: LegacyFile) -> Case:
        period = file.period
        before = period_at(self._form, period.start - timedelta(seconds=1))
        return Case(
            company=file.company,
            period=period,
            cut=period.end + timedelta(seconds=self._form.cut_seconds),
            now=self._now,
            commits=self._commits,
            neighbours=(self._keys(file.company, before.start), self._keys(file.company, period.end)),
        )

    def _keys(self, company: str, start: datetime) -> Iterator[pl.DataFrame] | None:
        """The keys in a company's file of the period from `start` on, read when they are asked for."""
        file = self._files.get((company, start))
        return None if file is None else (rows.select(self._spec.primary_key) for rows in self._rows(file))

    def _rows(self, file: LegacyFile) -> Iterator[pl.DataFrame]:
        """A file's rows, read when they are asked for."""
        with self._location.reading(file.entry.path) as opened:
            for frame in Records(self._form, Lines(self._form, Text(opened, self._form))).frames():
                yield from_file(self._spec, self._form, frame).rows

    def _late(self, file: LegacyFile) -> float:
        """By how much the first issue of a file came too late."""
        issues = [
            one for one in self._listing.superseded if (one.company, one.period) == (file.company, file.period)
        ]
        arrived = min(one.entry.modified for one in (file, *issues))
        slack = self._form.cut_seconds + self._form.grace_seconds
        return max(0.0, (arrived - file.period.end).total_seconds() - slack)

    def _has_rows(self, task: Absent) -> bool:
        """Whether the company has rows that the file would have: what was committed after the cut it would not."""
        version = self._commits.newest_by(task.period.end + timedelta(seconds=self._form.cut_seconds))
        target = Target(task.company, self._served[task.company].database)
        with scratch_space(self._stream.settings.home / "scratch") as scratch:
            try:
                with stored_rows(scratch.db, self._spec, target, task.period) as stored:
                    return any(_begins_by(batch, version) for batch in stored.batches)
            except NoDatabaseError:
                return False

    def _result(self, task: LegacyFile | Absent, verdict: Verdict, **found: Any) -> Reconciliation:
        entry = task.entry if isinstance(task, LegacyFile) else None
        return Reconciliation(
            feed=self._stream.spec.name,
            company=task.company,
            period=task.period,
            compared_at=self._now,
            verdict=verdict,
            file=entry.path if entry else None,
            modified=entry.modified if entry else None,
            size=entry.size if entry else 0,
            **found,
        )


def _begins_by(rows: pa.RecordBatch, version: int) -> bool:
    """Whether a row is of that commit version or an earlier one."""
    return rows.num_rows > 0 and bool(pc.min(rows.column(COMMIT_VERSION)).as_py() <= version)
