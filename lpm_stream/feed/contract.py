"""Checks rows against the contract: which may travel, and why the others may not."""

from dataclasses import dataclass

import polars as pl

from lpm_stream.feed.schema import CHANGE_TYPE, DELETE, Fit
from lpm_stream.feed.spec import Column, FeedSpec

REASON = "_reason"


@dataclass(frozen=True)
class Checked:
    """The rows of a batch, told apart.

    Attributes:
        good: rows that fit the contract, cast to its types.
        bad: the others, as they came, with the text column `_reason`.
    """

    good: pl.DataFrame
    bad: pl.DataFrame


def check(spec: FeedSpec, fit: Fit, rows: pl.DataFrame) -> Checked:
    """Tells rows that fit the contract from those that break it.

    Of a delete only the key and the company are looked at: the rest of it goes nowhere.
    NaN has no equivalent in SQL: it becomes NULL where the contract allows that, else it breaks the contract.

    Args:
        spec: the feed.
        fit: how the table's schema fits the contract.
        rows: a batch in the source's types with `_change_type`; further columns are kept as they are.
    """
    typed = rows.with_columns(pl.col(name).cast(dtype) for name, dtype in fit.schema.items())
    floats = [name for name, dtype in fit.schema.items() if dtype == pl.Float64()]
    typed = typed.with_columns(pl.col(name).fill_nan(None) for name in floats)
    identity = {*spec.primary_key, spec.company_column}
    breaches = [_breach(column) for column in spec.columns if column.name in identity]
    rest = [_breach(column) for column in spec.columns if column.name not in identity]
    if rest:
        breaches.append(pl.when(pl.col(CHANGE_TYPE) != DELETE).then(pl.coalesce(rest)))
    marked = typed.with_columns(pl.coalesce(_company_breach(spec), *breaches).alias(REASON))
    bad = marked.filter(pl.col(REASON).is_not_null())
    if bad.is_empty():
        return Checked(typed, bad)
    return Checked(marked.filter(pl.col(REASON).is_null()).drop(REASON), bad)


def _company_breach(spec: FeedSpec) -> pl.Expr:
    company = pl.col(spec.company_column)
    return pl.when(company == "").then(pl.lit(f"{spec.company_column} is empty: the row belongs to nobody"))


def _breach(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    breaches = []
    if not column.nullable:
        breaches.append(pl.when(value.is_null()).then(pl.lit(f"{column.name} is null")))
    if column.max_length is not None:
        too_long = value.str.len_chars() > column.max_length
        breaches.append(pl.when(too_long).then(pl.lit(f"{column.name} is longer than {column.max_length}")))
    if column.type == "string":
        nul = value.str.contains("\0", literal=True)
        breaches.append(pl.when(nul).then(pl.lit(f"{column.name} contains a NUL character")))
    return pl.coalesce(*breaches, pl.lit(None, pl.String))
