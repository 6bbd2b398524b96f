"""What a feed declares about its legacy flat files, against which the stream is compared."""

import codecs
import re
from datetime import UTC, datetime
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

_PLACE = re.compile(r"\{(.*?)\}")
_NAME_DIRECTIVES = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%M": r"\d{2}", "%j": r"\d{3}"}
_PERIOD_DIRECTIVES = {"minutely": "%M", "hourly": "%H", "daily": ""}
_SOME_INSTANT = datetime(2026, 1, 31, 23, 58, 59, 123456, UTC)


class LegacyFormat(BaseModel):
    """Delimited text files, one for each company and period. Quotes in values are doubled (RFC 4180)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_name: str = Field(
        description="path below the location, with {company}, {start} of the period, {issue} of re-issued files"
    )
    company_names: dict[str, Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]] = Field(
        default_factory=dict,
        description="company id to what stands for {company}, for the companies that the files name otherwise",
    )
    start_format: str = Field("%Y%m%d%H%M", description="of {start}, in the time zone: %Y %m %d %H %M %j")
    issue_format: str = Field("_R{number}", description="what {issue} is in a re-issued file; empty in the first")
    period: Literal["minutely", "hourly", "daily"] = Field(description="by the clock of the time zone")
    time_zone: str = Field(description="IANA name: of file names, and of timestamps that name no zone themselves")
    encoding: str = Field("utf-8", description="as Python names it")
    compression: Literal["none", "gzip"] = "none"
    delimiter: str = Field(description="one ASCII character")
    quote: str | None = Field('"', description="one ASCII character; null where values are never quoted")
    header: bool = Field(True, description="the first line names the columns; else they stand in declared order")
    trailer: str | None = Field(None, description="the last line, with {count} for the number of records")
    columns: dict[str, str | None] = Field(
        min_length=1, description="the file's columns to those of the contract; null: not compared"
    )
    null_text: str = Field("", description="the unquoted text that stands for NULL")
    true_text: str = "true"
    false_text: str = "false"
    decimal_mark: Literal[".", ","] = Field(
        ".", description="before the fraction of decimals and floats; digits are not grouped"
    )
    timestamp_format: str = Field(
        "%Y-%m-%dT%H:%M:%S%.6f",
        description="in the directives of Rust's chrono (%.3f: milliseconds); the database is compared to that "
        "precision",
    )
    date_format: str = "%Y-%m-%d"
    empty_periods: Literal["file", "none"] = Field("file", description="whether a period without rows has a file")
    cut_seconds: float = Field(
        0,
        ge=0,
        description="how long after its period a file is cut, whenever it comes; later changes are not in it",
    )
    grace_seconds: float = Field(
        900, ge=0, description="how long after the cut the file may take to arrive, and the stream to catch up"
    )
    settle_seconds: float = Field(60, ge=0, description="a file written to within this time may still be growing")
    straddle_seconds: float = Field(
        0, ge=0, description="how far from the edge of a period a row may be and stand in the neighbouring file"
    )
    tolerance_rows: int = Field(0, ge=0, description="so many unexplained rows fail no file")
    severity: Literal["WARN", "ERROR"] = "ERROR"

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"{value!r} is not an IANA time zone; write for instance Europe/Berlin or UTC")
        return value

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, value: str) -> str:
        try:
            if codecs.lookup(value)._is_text_encoding:  # noqa: SLF001 - the one way to tell
                return value
        except LookupError:
            pass
        raise ValueError(f"{value!r} is not a text encoding that Python knows; write for instance utf-8 or cp1252")

    @field_validator("delimiter", "quote")
    @classmethod
    def _is_one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n\0"):
            raise ValueError(f"{value!r} must be one ASCII character, and no line end")
        return value

    @field_validator("start_format")
    @classmethod
    def _start_can_be_found(cls, value: str) -> str:
        if unknown := sorted(set(re.findall("%.?", value)) - set(_NAME_DIRECTIVES)):
            raise ValueError(f"{', '.join(unknown)} cannot be used; choose of {' '.join(_NAME_DIRECTIVES)}")
        return value

    @field_validator("timestamp_format", "date_format")
    @classmethod
    def _is_a_format(cls, value: str) -> str:
        if "%" not in value or not _strftime_works(value):
            raise ValueError(f"{value!r} is not a format of dates; write for instance %Y-%m-%d %H:%M:%S%.3f")
        return value

    @field_validator("trailer")
    @classmethod
    def _trailer_counts(cls, value: str | None) -> str | None:
        if value is not None and (_PLACE.findall(value) != ["count"] or "\n" in value):
            raise ValueError("must be one line with {count} in it once, for instance 'T|{count}'")
        return value

    @field_validator("issue_format")
    @classmethod
    def _issue_counts(cls, value: str) -> str:
        if _PLACE.findall(value) != ["number"]:
            raise ValueError("must have {number} in it once, for instance '_R{number}'")
        return value

    @field_validator("file_name")
    @classmethod
    def _name_has_its_parts(cls, value: str) -> str:
        places = _PLACE.findall(value)
        if unknown := sorted(set(places) - {"company", "start", "issue"}):
            raise ValueError(f"{{{unknown[0]}}} is none of {{company}}, {{start}} and {{issue}}; correct it")
        if "company" not in places or "start" not in places:
            raise ValueError("must have {company} and {start} in it")
        if value.startswith("/") or {"", ".", ".."} & set(value.split("/")):
            raise ValueError("must be a plain path below the location: no leading /, no . or .. or empty part")
        return value

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        names = list(self.company_names.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"company_names: {', '.join(twice)} stands for two companies; correct one")
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote are the same character; change one")
        if self.quote is None and self.delimiter == self.decimal_mark:
            raise ValueError("delimiter and decimal_mark are the same character and nothing is quoted; change one")
        if (wanted := _PERIOD_DIRECTIVES[self.period]) not in self.start_format:
            raise ValueError(
                f"start_format: lacks {wanted}, so {self.period} files would have the same name; add it"
            )
        if {self.delimiter, self.quote, "\r", "\n"} & set(self.null_text):
            raise ValueError("null_text stands without quotes: it must not have the delimiter or quote in it")
        if len({self.null_text, self.true_text, self.false_text}) < 3:  # noqa: PLR2004
            raise ValueError("null_text, true_text and false_text must be three different texts")
        used = [column for column in self.columns.values() if column is not None]
        if twice := sorted({column for column in used if used.count(column) > 1}):
            raise ValueError(f"columns: {', '.join(twice)} stands for two columns of the file; remove one")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.time_zone)

    @property
    def used(self) -> dict[str, str]:
        """The file's columns that are compared, to those of the contract."""
        return {name: column for name, column in self.columns.items() if column is not None}

    @property
    def precision(self) -> str:
        """To what the format of timestamps is exact, as a polars duration."""
        if re.search(r"%\.?6f|%\.f|%\+", self.timestamp_format):
            return "1us"
        if re.search(r"%\.?3f", self.timestamp_format):
            return "1ms"
        return "1s" if re.search(r"%(S|T|s|X|c)", self.timestamp_format) else "1m"

    @property
    def start_pattern(self) -> str:
        """A regular expression for {start}."""
        parts = re.split("(%.)", self.start_format)
        return "".join(_NAME_DIRECTIVES.get(part) or re.escape(part) for part in parts)


def _strftime_works(form: str) -> bool:
    import polars as pl  # noqa: PLC0415 - the commands start without it

    try:
        text = pl.Series([_SOME_INSTANT]).dt.strftime(form)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return False
    return bool(text.item() != form)
