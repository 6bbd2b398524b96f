"""Checks rows against the contract: which may travel, and why the others may not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import MappingProxyType

import polars as pl

from lpm_stream.feed.schema import CHANGE_TYPE, DELETE, INSTANT, Fit
from lpm_stream.feed.spec import Column, FeedSpec

REASON = "_reason"
_STRIPPED = "_stripped"

# The years 1 to 9999: databases, drivers and Python know no others, a Delta table does.
_SPANS: Mapping[pl.DataType, tuple[date, date]] = MappingProxyType(
    {
        INSTANT: (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
        pl.Date(): (date.min, date.max),
    }
)


@dataclass(frozen=True)
class Checked:
    """The rows of a batch, told apart.

    Attributes:
        good: rows that fit the contract, cast to its types.
        bad: the others, as they came but for dates outside of the years 1 to 9999, with the text column `_reason`.
        stripped: copies of good rows that lost a value whose column allows that, with `_reason`.
    """

    good: pl.DataFrame
    bad: pl.DataFrame
    stripped: pl.DataFrame


def check(spec: FeedSpec, fit: Fit, rows: pl.DataFrame) -> Checked:
    """Tells rows that fit the contract from those that break it.

    Of a delete only the key and the company are looked at: the rest of it goes nowhere.
    NaN has no equivalent in SQL: it becomes NULL where the contract allows that, else it breaks the contract.
    A date outside of the years 1 to 9999 breaks it.

    Args:
        spec: the feed; columns that it withholds are left out, whatever is in them.
        fit: how the table's schema fits the contract.
        rows: a batch in the source's types with `_change_type`; further columns are kept as they are.
    """
    schema = {name: dtype for name, dtype in fit.schema.items() if name not in spec.withheld}
    rows = rows.drop(spec.withheld, strict=False)
    typed = rows.with_columns(_typed(name, rows.schema[name], dtype) for name, dtype in schema.items())
    breaches = list(_breaches(spec, schema))
    if not typed.select(pl.any_horizontal(breach.found.any() for breach in breaches)).item():
        none = typed.clear().with_columns(pl.lit(None, pl.String).alias(REASON))
        return Checked(typed, none, none)
    marked = typed.with_columns(
        _first_reason(breach for breach in breaches if not breach.spares_row).alias(REASON),
        _first_reason(breach for breach in breaches if breach.spares_row).alias(_STRIPPED),
    )
    # Python could not hold a date outside of its years, not even to quarantine it.
    held = marked.with_columns(
        pl.when(_within(name, dtype)).then(pl.col(name)) for name, dtype in schema.items() if dtype in _SPANS
    )
    bad = held.filter(pl.col(REASON).is_not_null()).drop(_STRIPPED)
    fine = held.filter(pl.col(REASON).is_null()).drop(REASON)
    stripped = fine.filter(pl.col(_STRIPPED).is_not_null()).rename({_STRIPPED: REASON})
    good = fine.drop(_STRIPPED).with_columns(_spared(name, breaches) for name in schema)
    return Checked(good, bad, stripped)


def _spared(name: str, breaches: Iterable["_Breach"]) -> pl.Expr:
    """A column without the values that its rows are delivered without."""
    found = [breach.found for breach in breaches if breach.spares_row and breach.column == name]
    if not found:
        return pl.col(name)
    return pl.when(~pl.any_horizontal(found).fill_null(value=False)).then(pl.col(name)).alias(name)


def _first_reason(breaches: Iterable["_Breach"]) -> pl.Expr:
    upsert = pl.col(CHANGE_TYPE) != DELETE
    reasons = [
        pl.when(breach.found if breach.concerns_deletes else breach.found & upsert).then(pl.lit(breach.reason))
        for breach in breaches
    ]
    return pl.coalesce(*reasons, pl.lit(None, pl.String))


@dataclass(frozen=True)
class _Breach:
    """A way to break the contract: for which rows it is true, and how that is told."""

    column: str
    found: pl.Expr
    reason: str
    concerns_deletes: bool
    spares_row: bool = False


def _typed(name: str, found: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    value = pl.col(name) if found == wanted else pl.col(name).cast(wanted)
    return value.fill_nan(None) if wanted == pl.Float64() else value


def _breaches(spec: FeedSpec, schema: Mapping[str, pl.DataType]) -> Iterable[_Breach]:
    company = spec.company_column
    empty = f"{company} is empty: the row belongs to nobody"
    yield _Breach(company, pl.col(company) == "", empty, concerns_deletes=True)
    declared = {column.name: column for column in spec.columns}
    identity = {*spec.primary_key, company}
    for name in sorted(schema, key=lambda name: name not in identity):
        column = declared.get(name)
        spares_row = column is not None and column.on_breach == "value"
        for found, problem in _conditions(name, schema[name], column, spec.wire_format):
            yield _Breach(name, found, f"{name} {problem}", name in identity, spares_row)


def _conditions(
    name: str, dtype: pl.DataType, declared: Column | None, wire_format: str
) -> Iterable[tuple[pl.Expr, str]]:
    value = pl.col(name)
    if declared is not None and not declared.nullable:
        yield value.is_null(), "is null"
    if declared is not None and declared.max_length is not None:
        yield value.str.len_chars() > declared.max_length, f"is longer than {declared.max_length}"
    if dtype == pl.String():
        yield value.str.contains("\0", literal=True), "contains a NUL character"
    if dtype in _SPANS:
        yield ~_within(name, dtype), "is outside of the years 1 to 9999"
    if dtype == pl.Float64() and wire_format == "ndjson":
        yield value.is_infinite(), "is infinite, for which JSON has no word"


def _within(name: str, dtype: pl.DataType) -> pl.Expr:
    first, last = _SPANS[dtype]
    return pl.col(name).is_between(pl.lit(first, dtype), pl.lit(last, dtype))
