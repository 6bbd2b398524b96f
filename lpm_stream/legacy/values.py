"""The values of a legacy file and of a database, brought to the one form in which they are compared.

Instants become wall-clock times of the format's zone, cut to the precision that the file has; so the hour that
comes twice when clocks are set back compares as it reads. Everything else takes the canonical form of the audit.
"""

from dataclasses import dataclass

import polars as pl
import polars.selectors as cs

from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.schema import COMMIT_VERSION, INSTANT
from lpm_stream.feed.spec import MOST_DIGITS, Column, FeedSpec
from lpm_stream.legacy.records import LINE

_STORED = "%Y-%m-%dT%H:%M:%S%.6f"  # how a database's instants are written in canonical form
_WORDS = {
    "int32": "a whole number",
    "int64": "a whole number",
    "float64": "a number",
    "boolean": "one of the two texts for true and false",
    "timestamp": "a timestamp in the declared format",
    "date": "a date in the declared format",
    "decimal": "a decimal number of the contract's digits with the declared mark",
}


def compared(spec: FeedSpec, form: LegacyFormat) -> FeedSpec:
    """The feed with only those columns that the file has, the event time, and the commit version."""
    wanted = {*form.used.values(), spec.event_time_column}
    columns = [column for column in spec.columns if column.name in wanted]
    # A contract may not declare this one: every company table has it.
    version = Column.model_construct(
        name=COMMIT_VERSION, type="int64", nullable=False, description="commit version"
    )
    return spec.model_copy(update={"columns": (*columns, version)})


@dataclass(frozen=True)
class Typed:
    """A file's records as values.

    Attributes:
        rows: under the contract's names, with `_line`; a value that fits no type is NULL.
        breaches: per reason, a mask of the rows that it is true of.
        keyless: a mask of the rows without a whole key, which cannot be compared.
    """

    rows: pl.DataFrame
    breaches: tuple[tuple[str, pl.Series], ...]
    keyless: pl.Series


def from_file(spec: FeedSpec, form: LegacyFormat, records: pl.DataFrame) -> Typed:
    """The values of records as `Records.frames` hands them out."""
    used = form.used
    rows = records.select(
        *(_parsed(spec.column(column), form, pl.col(name)).alias(column) for name, column in used.items()), LINE
    )
    breaches = []
    for name, column in used.items():
        lost = records[name].is_not_null() & rows[column].is_null()
        if lost.any():
            breaches.append((f"column {name} is not {_WORDS[spec.column(column).type]}", lost))
        if column in spec.primary_key and records[name].has_nulls():
            breaches.append((f"column {name} of the key is empty", records[name].is_null()))
    keyless = rows.select(pl.any_horizontal(pl.col(*spec.primary_key).is_null())).to_series()
    return Typed(rows.with_columns(cs.float().fill_nan(None)), tuple(breaches), keyless)


def from_database(spec: FeedSpec, form: LegacyFormat, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as the audit reads them, instants as the file has them."""
    instants = [column.name for column in spec.columns if column.type == "timestamp"]
    return rows.with_columns(
        pl.col(instants)
        .str.to_datetime(_STORED, time_unit="us", strict=False)
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone(form.time_zone)
        .dt.replace_time_zone(None)
        .dt.truncate(form.precision)
    )


def _parsed(column: Column, form: LegacyFormat, text: pl.Expr) -> pl.Expr:
    match column.type:
        case "timestamp":
            return _wall_time(form, text)
        case "date":
            return text.str.to_date(form.date_format, strict=False).dt.strftime("%Y-%m-%d")
        case "boolean":
            return pl.when(text == form.true_text).then(1).when(text == form.false_text).then(0).cast(pl.Int64)
        case "float64" | "decimal":
            number = _number(form, text)
            return _decimal(column, number) if column.type == "decimal" else number.cast(pl.Float64, strict=False)
        case "int32" | "int64":
            return text.cast(pl.Int64, strict=False)
        case _:
            return text


def canonical_decimal(column: Column, value: pl.Expr) -> pl.Expr:
    """Decimals as the audit writes them; the source's may have fewer digits, or more before the point."""
    return value.cast(pl.Decimal(MOST_DIGITS, column.scale or 0)).cast(pl.String)


def _decimal(column: Column, text: pl.Expr) -> pl.Expr:
    """Exact to the last digit: zeros behind the contract's digits say nothing, others make it none."""
    scale = column.scale or 0
    digits = text.str.replace(rf"^([^.]*[.][0-9]{{{scale}}})0+$", "$1")
    whole = digits.str.contains(rf"^[+-]?([0-9]+([.][0-9]{{0,{scale}}})?|[.][0-9]{{0,{scale}}}[0-9])$")
    value = pl.when(whole).then(digits).cast(pl.Decimal(MOST_DIGITS, scale), strict=False)
    return value.cast(pl.String)


def _number(form: LegacyFormat, text: pl.Expr) -> pl.Expr:
    """Numbers with the declared mark as ones with a point; what has a point already is none."""
    if form.decimal_mark == ".":
        return text
    return pl.when(~text.str.contains(".", literal=True)).then(
        text.str.replace(form.decimal_mark, ".", literal=True)
    )


def _wall_time(form: LegacyFormat, text: pl.Expr) -> pl.Expr:
    if "%z" in form.timestamp_format or "%:z" in form.timestamp_format or "%+" in form.timestamp_format:
        value = text.str.strptime(INSTANT, form.timestamp_format, strict=False)
        value = value.dt.convert_time_zone(form.time_zone).dt.replace_time_zone(None)
    else:
        value = text.str.to_datetime(form.timestamp_format, time_unit="us", strict=False)
    return value.dt.truncate(form.precision)
