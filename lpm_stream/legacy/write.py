"""Writes rows as a legacy file: the other direction of what is read here, for the simulator and the tests."""

import gzip
from collections.abc import Iterator

import polars as pl

from lpm_stream.errors import LegacyError
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.feed.spec import Column, FeedSpec

_LINES_AT_ONCE = 50_000


def content(spec: FeedSpec, form: LegacyFormat, rows: pl.DataFrame) -> bytes:
    """A whole file with these rows of the contract's types.

    Raises:
        LegacyError: if a value cannot be written in the declared format.
    """
    plain = "".join(_pieces(spec, form, rows))
    try:
        encoded = plain.encode(form.encoding)
    except UnicodeEncodeError as error:
        raise LegacyError(f"a value cannot be written in {form.encoding}; declare another encoding") from error
    return gzip.compress(encoded, 6, mtime=0) if form.compression == "gzip" else encoded


def _pieces(spec: FeedSpec, form: LegacyFormat, rows: pl.DataFrame) -> Iterator[str]:
    if form.header:
        names = pl.DataFrame([[name] for name in form.columns], schema=list(form.columns))
        yield _lines(form, names)
    for part in rows.iter_slices(_LINES_AT_ONCE):
        texts = [_text(spec, form, name, column) for name, column in form.columns.items()]
        yield _lines(form, part.select(texts))
    if form.trailer is not None:
        yield form.trailer.replace("{count}", str(rows.height)) + "\n"


def _lines(form: LegacyFormat, texts: pl.DataFrame) -> str:
    quoted = texts.select(_quoted(form, name) for name in texts.columns)
    if form.quote is None:
        special = f"[{_inside_class(form.delimiter)}\r\n]"
        if quoted.select(pl.any_horizontal(pl.all().str.contains(special).any())).item():
            raise LegacyError("a value has the delimiter or a line end in it; declare a quote")
    line = pl.concat_str(pl.all(), separator=form.delimiter)
    return "".join(text + "\n" for text in quoted.select(line).to_series())


def _quoted(form: LegacyFormat, name: str) -> pl.Expr:
    value = pl.col(name)
    if form.quote is None:
        return value.fill_null(form.null_text)
    special = f"[{_inside_class(form.delimiter)}{_inside_class(form.quote)}\r\n]"
    quoted = pl.concat_str(
        pl.lit(form.quote),
        value.str.replace_all(form.quote, form.quote * 2, literal=True),
        pl.lit(form.quote),
    )
    # What reads as NULL, and an empty line of one value, are told apart from it by quotes.
    needed = value.str.contains(special) | value.is_in([form.null_text, ""])
    return pl.when(needed).then(quoted).otherwise(value).fill_null(form.null_text).alias(name)


def _text(spec: FeedSpec, form: LegacyFormat, name: str, column: str | None) -> pl.Expr:
    if column is None:
        return pl.lit(None, pl.String).alias(name)
    return _written(spec.column(column), form).alias(name)


def _written(column: Column, form: LegacyFormat) -> pl.Expr:
    value = pl.col(column.name)
    match column.type:
        case "timestamp":
            return value.dt.convert_time_zone(form.time_zone).dt.strftime(form.timestamp_format)
        case "date":
            return value.dt.strftime(form.date_format)
        case "boolean":
            return pl.when(value).then(pl.lit(form.true_text)).when(~value).then(pl.lit(form.false_text))
        case "decimal" | "float64":
            return value.cast(pl.String).str.replace(".", form.decimal_mark, literal=True)
        case _:
            return value.cast(pl.String)


def _inside_class(character: str) -> str:
    return f"\\x{ord(character):02x}"
