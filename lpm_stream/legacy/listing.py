"""Which legacy files there are, per company and period, and which there should be."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lpm_stream.feed.legacy import LegacyFormat
from lpm_stream.legacy.location import Entry, Location
from lpm_stream.legacy.names import Named, Names, Period, periods

EVER = datetime.min.replace(tzinfo=UTC)
Look = Mapping[str, Entry]  # path to what was there


@dataclass(frozen=True)
class LegacyFile:
    """The file that counts for a company and period."""

    entry: Entry
    named: Named

    @property
    def company(self) -> str:
        """The company that it belongs to."""
        return self.named.company

    @property
    def period(self) -> Period:
        """What it covers."""
        return self.named.period


@dataclass(frozen=True)
class Absent:
    """A period of a company without a file.

    Attributes:
        due: when the file should have been there at the latest.
    """

    company: str
    period: Period
    due: datetime


@dataclass(frozen=True)
class Listing:
    """What one look at the location has shown.

    Attributes:
        files: the file that counts for each company and period: of several issues the last; oldest period first.
        superseded: files in whose place a later issue has come.
        growing: paths among `files` that changed since the look before, or were written to so lately that they may
            still grow.
        unrecognised: paths that are no file of a registered company.
        look: to be handed to the next look.
    """

    files: tuple[LegacyFile, ...]
    superseded: tuple[LegacyFile, ...]
    growing: frozenset[str]
    unrecognised: tuple[str, ...]
    look: Look


def list_files(
    location: Location, form: LegacyFormat, companies: Iterable[str], now: datetime, before: Look | None = None
) -> Listing:
    """Looks at what is there.

    Args:
        location: where.
        form: the declared format.
        companies: ids of the registered companies.
        now: an aware instant.
        before: what an earlier look saw. A file that is the same in both has stopped growing, whatever the
            server's clock says of it.

    Raises:
        LegacyError: if the location cannot be listed.
    """
    names = Names(form, companies)
    entries = location.entries(depth=form.file_name.count("/") + 1)
    read = {entry.path: names.read(entry.path) for entry in entries}
    found = [LegacyFile(entry, named) for entry in entries if (named := read[entry.path])]
    found.sort(key=lambda file: (file.period.start, file.company, file.named.issue, file.entry.modified))
    last = {(file.company, file.period): file for file in found}
    files = tuple(last.values())
    return Listing(
        files,
        superseded=tuple(file for file in found if last[file.company, file.period] is not file),
        growing=frozenset(file.entry.path for file in files if _grows(form, file.entry, now, before or {})),
        unrecognised=tuple(path for path, named in read.items() if named is None),
        look={entry.path: entry for entry in entries},
    )


def absent(
    form: LegacyFormat,
    listing: Listing,
    companies: Iterable[str],
    now: datetime,
    since: datetime | None = None,
    *,
    not_before: datetime = EVER,
) -> list[Absent]:
    """The periods that should have a file by now and have none.

    Args:
        form: the declared format.
        listing: what is there.
        companies: ids of the companies that should have files.
        now: an aware instant.
        since: the first instant of interest; by default a company's periods begin with its first file, and one
            without any file lacks none.
        not_before: periods that end by this instant are left out, whichever is the first.
    """
    slack = timedelta(seconds=form.cut_seconds + form.grace_seconds)
    present = {(file.company, file.period.start) for file in listing.files}
    begun: dict[str, datetime] = {}
    for file in listing.files:  # oldest period first
        begun.setdefault(file.company, file.period.start)
    lacking: list[Absent] = []
    for company in companies:
        first = since or begun.get(company)
        if first is not None:
            first = max(first, not_before)
            lacking += [
                Absent(company, period, period.end + slack)
                for period in periods(form, first, now - slack)
                if (company, period.start) not in present
            ]
    return lacking


def _grows(form: LegacyFormat, entry: Entry, now: datetime, before: Look) -> bool:
    earlier = before.get(entry.path)
    if earlier is not None:
        return (earlier.size, earlier.modified) != (entry.size, entry.modified)
    return (now - entry.modified).total_seconds() < form.settle_seconds
