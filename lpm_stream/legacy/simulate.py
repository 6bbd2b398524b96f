"""Simulated legacy files: cut from the source table as the legacy system would, with faults on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import polars as pl

from lpm_stream.audit.sql import literal
from lpm_stream.audit.table import pin
from lpm_stream.errors import LegacyError
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.commits import Commits
from lpm_stream.legacy.listing import list_files
from lpm_stream.legacy.location import Location
from lpm_stream.legacy.names import Period, file_name, period_at
from lpm_stream.legacy.reconcile import declared_format
from lpm_stream.legacy.write import content
from lpm_stream.stream import Stream

Fault = Literal["missing-row", "extra-row", "changed-value", "truncated-file", "late-file"]


@dataclass(frozen=True)
class Written:
    """What the simulator did for a company and period.

    Attributes:
        company: its id.
        period: what the file covers.
        path: of the file; None if it is not written yet, as `late-file` asks for.
        rows: how many it has.
        fault: what is wrong with it, if anything.
        key: the key of the row that the fault is at.
    """

    company: str
    period: Period
    path: str | None
    rows: int
    fault: Fault | None = None
    key: tuple[str, ...] = ()


def write_file(
    spec: FeedSpec,
    table: str,
    location: Location,
    company: str,
    period: Period,
    *,
    fault: Fault | None = None,
    issue: int = 0,
) -> Written:
    """Writes the file of a company and period, from the table as it was when such a file is cut.

    Args:
        spec: the feed, which declares legacy files.
        table: path or URL of the source table.
        location: where to.
        company: its id.
        period: which; a period whose files are not cut yet is cut now.
        fault: what is to be wrong. A row fault is at the row with the lowest key.
        issue: 0 for the first file of a period.

    Raises:
        LegacyError: if the file cannot be written, or has no row to make the fault of.
        SourceError: if the table cannot be read at that version.
    """
    form = spec.legacy
    if form is None:
        raise LegacyError(f"feed {spec.name} declares no legacy files")
    rows = rows_when_cut(spec, form, table, company, period)
    if fault == "late-file":
        return Written(company, period, None, 0, fault)
    key: tuple[str, ...] = ()
    if fault in {"missing-row", "extra-row", "changed-value"}:
        rows, key = _with_fault(spec, form, rows, fault)
    path = file_name(form, company, period, issue)
    body = content(spec, form, rows)
    with location.writing(path) as file:
        file.write(body[: len(body) * 2 // 3] if fault == "truncated-file" else body)
    return Written(company, period, path, rows.height, fault, key)


def rows_when_cut(spec: FeedSpec, form: LegacyFormat, table: str, company: str, period: Period) -> pl.DataFrame:
    """A company's rows of a period, as the table had them when the period's file was cut, by key.

    Raises:
        SourceError: if the table cannot be read at that version.
    """
    commits = Commits(pin(spec, table, None, None))
    version = commits.newest_by(period.end + timedelta(seconds=form.cut_seconds))
    if version < 0:
        return pl.DataFrame(schema={name: pl.Null() for name in spec.column_names})
    return rows_at(spec, table, company, period, version)


def rows_at(spec: FeedSpec, table: str, company: str, period: Period, version: int | None) -> pl.DataFrame:
    """A company's rows of a period at a version of the table, or at its newest, by key.

    Raises:
        SourceError: if the table cannot be read at that version.
    """
    predicate = f"{spec.company_column} = {literal(company)}"
    then = pin(spec, table, version, None)
    rows = pl.DataFrame(then.scan(columns=spec.column_names, predicate=predicate))
    at = pl.col(spec.event_time_column)
    return rows.filter(at >= period.start, at < period.end).sort(spec.primary_key)


def _with_fault(
    spec: FeedSpec, form: LegacyFormat, rows: pl.DataFrame, fault: Fault
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    if rows.is_empty():
        raise LegacyError(f"there is no row to make the fault {fault} of; choose a period with rows")
    first = rows.head(1)
    if fault == "missing-row":
        return rows.tail(-1), _key(spec, first)
    if fault == "extra-row":
        extra = first.with_columns(_unused(rows[spec.primary_key[-1]]))
        return pl.concat([extra, rows]), _key(spec, extra)
    changed = first.with_columns(_changed(spec, form, first))
    return pl.concat([changed, rows.tail(-1)]), _key(spec, first)


def _key(spec: FeedSpec, row: pl.DataFrame) -> tuple[str, ...]:
    return tuple(map(str, row.select(spec.primary_key).row(0)))


def _unused(keys: pl.Series) -> pl.Series:
    """A value that is not among these."""
    if keys.dtype == pl.String():
        return pl.Series(keys.name, ["!" + keys[0][1:]])
    if keys.dtype.is_integer():
        return pl.Series(keys.name, [keys.min()], dtype=keys.dtype) - 1
    raise LegacyError(f"the fault extra-row needs a last key column of texts or integers, not {keys.name}")


def _changed(spec: FeedSpec, form: LegacyFormat, row: pl.DataFrame) -> pl.Expr:
    """A value that the file has and that is not the key, as another."""
    for column in map(spec.column, form.used.values()):
        if column.name in {*spec.primary_key, spec.company_column} or row[column.name].has_nulls():
            continue
        value = pl.col(column.name)
        if column.type == "string":
            return pl.concat_str(value, pl.lit("!"))
        if column.type in {"int32", "int64"}:
            return value + 1
    raise LegacyError("the fault changed-value needs a text or an integer beside the key in the file's columns")


def write_recent(
    stream: Stream,
    location: Location,
    companies: Sequence[str],
    count: int,
    now: datetime,
    *,
    fault: Fault | None = None,
) -> list[Written]:
    """Writes the files of the last `count` periods that are cut by now; what is there already is re-issued.

    Args:
        stream: the feed with its parts.
        location: where to.
        companies: whose.
        count: of how many periods.
        now: an aware instant.
        fault: of the newest file of the first company.

    Raises:
        LpmStreamError: as `write_file`, or if the feed declares no legacy files.
    """
    form = declared_format(stream)
    period = period_at(form, now - timedelta(seconds=form.cut_seconds))
    chosen: list[Period] = []
    while len(chosen) < count:
        period = period_at(form, period.start - timedelta(seconds=1))
        chosen.insert(0, period)
    there = list_files(location, form, companies, now)
    issues = {(file.company, file.period): file.named.issue + 1 for file in there.files}
    return [
        write_file(
            stream.spec,
            stream.table,
            location,
            company,
            period,
            fault=fault if (company, period) == (companies[0], chosen[-1]) else None,
            issue=issues.get((company, period), 0),
        )
        for period in chosen
        for company in companies
    ]
