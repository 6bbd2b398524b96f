"""The names of legacy files: from company and period to a name and back."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lpm_stream.errors import LegacyError
from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.settings import safe_file_name

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LENGTHS = {"minutely": timedelta(minutes=1), "hourly": timedelta(hours=1), "daily": timedelta(days=1)}


@dataclass(frozen=True)
class Period:
    """From `start` to before `end`, both aware instants in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Named:
    """What a file's name says. `issue` is 0 for the first file of a period."""

    company: str
    period: Period
    issue: int


def company_text(form: LegacyFormat, company: str) -> str:
    """How a file name names a company: as declared, else by its id, or by what is harmless in a path for it."""
    if company in form.company_names:
        return form.company_names[company]
    return company if _PLAIN.fullmatch(company) else safe_file_name(company)


def period_at(form: LegacyFormat, instant: datetime) -> Period:
    """The period that an instant is in.

    A period is one of the wall clock: where clocks are set back, the hour that comes twice is one period.
    """
    wall = instant.astimezone(form.zone).replace(tzinfo=None, fold=0)
    start = wall.replace(second=0, microsecond=0)
    if form.period != "minutely":
        start = start.replace(minute=0)
    if form.period == "daily":
        start = start.replace(hour=0)
    return _from_wall(form, start)


def periods(form: LegacyFormat, first: datetime, before: datetime) -> Iterator[Period]:
    """The periods from the one that `first` is in to the last that ends by `before`."""
    period = period_at(form, first)
    while period.end <= before:
        yield period
        period = period_at(form, period.end)


def file_name(form: LegacyFormat, company: str, period: Period, issue: int = 0) -> str:
    """The path, below the location, of a company's file."""
    start = period.start.astimezone(form.zone).strftime(form.start_format)
    issue_text = form.issue_format.replace("{number}", str(issue)) if issue else ""
    parts = {"company": company_text(form, company), "start": start, "issue": issue_text}
    return re.sub(r"\{(.*?)\}", lambda place: parts[place[1]], form.file_name)


class Names:
    """Reads the names of the files of known companies.

    Raises:
        LegacyError: if two of them would have the same files.
    """

    def __init__(self, form: LegacyFormat, companies: Iterable[str]) -> None:
        self._form = form
        self._companies: dict[str, str] = {}
        for company in companies:
            other = self._companies.setdefault(company_text(form, company), company)
            if other != company:
                raise LegacyError(
                    f"files named {company_text(form, company)!r} could be those of company {other!r} or of "
                    f"{company!r}: correct company_names under legacy in the feed's defs.yaml"
                )
        self._pattern = _pattern(form)

    def read(self, path: str) -> Named | None:
        """What a path below the location says; None if it is not the name of a known company's file."""
        found = self._pattern.fullmatch(path)
        company = self._companies.get(found["company"]) if found else None
        if found is None or company is None:
            return None
        try:
            start = datetime.strptime(found["start"], self._form.start_format)  # noqa: DTZ007 - of the wall clock
        except ValueError:
            return None
        issue = int(found.groupdict().get("number") or 0)
        return Named(company, _from_wall(self._form, start), issue)


def _pattern(form: LegacyFormat) -> re.Pattern[str]:
    issue = re.escape(form.issue_format).replace(re.escape("{number}"), r"(?P<number>[1-9]\d{0,5})")
    places = {
        "{company}": r"(?P<company>[A-Za-z0-9_~-]+)",
        "{start}": f"(?P<start>{form.start_pattern})",
        "{issue}": f"(?:{issue})?",
    }
    text = ""
    for part in re.split(r"(\{.*?\})", form.file_name):
        again = part != "{issue}" and part in places and places[part] in text
        name = part.strip("{}")
        text += f"(?P={name})" if again else places.get(part, re.escape(part))
    return re.compile(text)


def _from_wall(form: LegacyFormat, start: datetime) -> Period:
    """The period that begins at a time of the wall clock; its end is the next such time, on the later pass."""
    end = start + _LENGTHS[form.period]
    begin = start.replace(tzinfo=form.zone).astimezone(UTC)
    return Period(begin, max(end.replace(tzinfo=form.zone).astimezone(UTC), begin + timedelta(minutes=1)))
