"""Tells differences for a good reason from those that are defects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lpm_stream.audit.sql import key_columns, literal, quoted
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.commits import Commits
from lpm_stream.legacy.compare import FOUND
from lpm_stream.legacy.names import Period
from lpm_stream.legacy.report import Explanation
from lpm_stream.legacy.stage import MOST_KEYS
from lpm_stream.legacy.values import canonical_decimal

_PIECE = "piece"
_BOUNDED = ("string", "int32", "int64")


@dataclass(frozen=True)
class Case:
    """What is known about the file compared.

    Attributes:
        company: whose.
        period: what the file covers.
        cut: when the file was cut: changes committed later are not in it.
        now: when it is compared.
        commits: of the source table.
        neighbours: the keys in the files of the period before and after, in pieces; None for a file not there.
    """

    company: str
    period: Period
    cut: datetime
    now: datetime
    commits: Commits
    neighbours: tuple[Iterator[pl.DataFrame] | None, Iterator[pl.DataFrame] | None]


def explain(db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, case: Case) -> None:
    """Notes in `found` why rows differ, where there is a good reason.

    Raises:
        SourceError: if the source table's log cannot be read.
        LegacyError: if a neighbouring file cannot be read.
    """
    if _nothing_left(db):
        return
    version = case.commits.newest_by(case.cut)
    later = f"_why IS NULL AND _version > {version}"
    db.execute(f"UPDATE {FOUND} SET _why = 'corrected_later' WHERE _kind = 'different' AND {later}")
    db.execute(f"UPDATE {FOUND} SET _why = 'committed_later' WHERE _kind = 'extra' AND {later}")
    _explain_withdrawn(db, spec, case, version)
    for after in (False, True):
        _explain_by_neighbour(db, spec, form, case, after=after)
    if case.now < case.cut + timedelta(seconds=form.grace_seconds):
        db.execute(f"UPDATE {FOUND} SET _why = 'grace' WHERE _why IS NULL AND _kind IN ('missing', 'different')")


def explained(db: duckdb.DuckDBPyConnection) -> Mapping[Explanation, int]:
    """How many rows each reason explains."""
    return dict(db.execute(f"SELECT _why, count(*) FROM {FOUND} WHERE _why IS NOT NULL GROUP BY ALL").fetchall())


def _nothing_left(db: duckdb.DuckDBPyConnection) -> bool:
    return db.execute(f"SELECT 1 FROM {FOUND} WHERE _why IS NULL LIMIT 1").fetchone() is None


def _mark(db: duckdb.DuckDBPyConnection, spec: FeedSpec, kind: str, why: Explanation, keys: pl.DataFrame) -> None:
    """Notes a reason at the rows of a kind with these keys."""
    if keys.is_empty():
        return
    db.register(_PIECE, keys.to_arrow())
    same = " AND ".join(f"{FOUND}.{quoted(name)} = p.{quoted(name)}" for name in spec.primary_key)
    db.execute(
        f"UPDATE {FOUND} SET _why = $1 FROM {_PIECE} p WHERE _why IS NULL AND _kind = $2 AND {same}", [why, kind]
    )
    db.unregister(_PIECE)


def _explain_withdrawn(db: duckdb.DuckDBPyConnection, spec: FeedSpec, case: Case, version: int) -> None:
    """What the source had when the file was cut and has no more, the stream has rightly deleted."""
    missing = db.sql(
        f"SELECT {key_columns(spec)} FROM {FOUND} WHERE _why IS NULL AND _kind = 'missing' LIMIT {MOST_KEYS + 1}"
    ).pl()
    newest = case.commits.table
    if missing.is_empty() or missing.height > MOST_KEYS or not 0 <= version < newest.version():
        return
    keys = list(spec.primary_key)
    with suppress(DeltaError, OSError):  # where that version cannot be read any more, nothing is explained by it
        then = DeltaTable(newest.table_uri, version=version)
        had = missing.join(_present(spec, then, case.company, missing), on=keys, how="semi")
        gone = had.join(_present(spec, newest, case.company, had), on=keys, how="anti")
        _mark(db, spec, "missing", "withdrawn_later", gone)


def _present(spec: FeedSpec, table: DeltaTable, company: str, keys: pl.DataFrame) -> pl.DataFrame:
    """The keys that a company has in the table, at least those among `keys`, in canonical form."""
    terms = [f"{spec.company_column} = {literal(company)}"]
    for name in spec.primary_key:
        if keys.height and spec.column(name).type in _BOUNDED:  # so that files can be left out
            terms += [f"{name} >= {_constant(keys[name].min())}", f"{name} <= {_constant(keys[name].max())}"]
    rows = pl.DataFrame(table.scan(columns=list(spec.primary_key), predicate=" AND ".join(terms)))
    return rows.select(_canonical(spec, name) for name in spec.primary_key)


def _canonical(spec: FeedSpec, name: str) -> pl.Expr:
    match spec.column(name).type:
        case "date":
            return pl.col(name).dt.strftime("%Y-%m-%d")
        case "string":
            return pl.col(name)
        case "decimal":
            return canonical_decimal(spec.column(name), pl.col(name))
        case _:
            return pl.col(name).cast(pl.Int64)


def _constant(value: Any) -> str:
    return str(value) if isinstance(value, int) else literal(str(value))


def _explain_by_neighbour(
    db: duckdb.DuckDBPyConnection, spec: FeedSpec, form: LegacyFormat, case: Case, *, after: bool
) -> None:
    """What lies near an edge of the period may stand in the file beyond it."""
    edge = (case.period.end if after else case.period.start).astimezone(form.zone).replace(tzinfo=None)
    reach = timedelta(seconds=form.straddle_seconds)
    near = db.sql(
        f"SELECT {key_columns(spec)} FROM {FOUND} "
        "WHERE _why IS NULL AND _kind = 'extra' AND _at BETWEEN $1 AND $2",
        params=[edge - reach, edge + reach],
    ).pl()
    if near.is_empty():
        return
    pieces = case.neighbours[after]
    if pieces is not None:
        _mark(db, spec, "extra", "in_neighbour", _among(near, pieces, list(spec.primary_key)))
    elif after and case.now < case.cut + (case.period.end - case.period.start) + timedelta(
        seconds=form.grace_seconds
    ):
        _mark(db, spec, "extra", "grace", near)


def _among(keys: pl.DataFrame, pieces: Iterator[pl.DataFrame], on: Sequence[str]) -> pl.DataFrame:
    return pl.concat([keys.clear(), *(keys.join(piece, on=on, how="semi") for piece in pieces)]).unique()
