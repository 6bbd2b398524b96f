"""Which legacy files have yet to be compared, and their comparison."""

import time
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from lpm_stream.control import reconciliations
from lpm_stream.control.reconciliations import Kept
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.legacy.listing import EVER, LegacyFile, Listing
from lpm_stream.legacy.location import open_location
from lpm_stream.legacy.reconcile import look, reconcile
from lpm_stream.legacy.report import Reconciliation
from lpm_stream.stream import Stream

_SECOND_LOOK_SECONDS = 2.0  # whether a fresh file still grows
_MOST_FILES = 50  # at once: what is left has its turn the next time


def compare_files(stream: Stream, companies: Collection[str]) -> list[Reconciliation]:
    """Compares the files of companies that are due, and keeps the results.

    Due are files that came or changed; and once more those that failed, or for which the grace counted: the
    stream may have brought their rows since, or somebody mended them. Periods without a file are due always.

    Raises:
        LegacyError: if the files cannot be listed.
        SourceError: if the source table cannot be read.
    """
    with open_location(stream.settings) as location:
        listing = look(stream, location, datetime.now(UTC))
        if listing.growing:
            time.sleep(_SECOND_LOOK_SECONDS)
            listing = look(stream, location, datetime.now(UTC), listing)
        now = datetime.now(UTC)
        kept = reconciliations.read(stream.store, stream.spec.name)
        paths = [file.entry.path for file in due(stream.spec, listing, kept, companies, now)]
        first = _first(stream.spec, now)
        return reconcile(stream, location, listing, now, companies=companies, paths=paths, overdue_after=first)


def due(
    spec: FeedSpec, listing: Listing, kept: Iterable[Kept], companies: Collection[str], now: datetime
) -> list[LegacyFile]:
    """The files to compare now, those first that never were, and no more than are done in a few minutes."""
    results = {(one.company, one.period_start): one for one in kept}
    waited: list[tuple[datetime, LegacyFile]] = []
    for file in judged(spec, listing, now):
        known = results.get((file.company, file.period.start))
        if file.company not in companies or file.entry.path in listing.growing:
            continue
        if not is_compared(file, known):
            waited.append((EVER, file))
        elif known and (known.verdict == "failed" or known.details["explained"].get("grace")):
            waited.append((known.compared_at, file))
    waited.sort(key=lambda one: one[0])
    return [file for _, file in waited[:_MOST_FILES]]


def judged(spec: FeedSpec, listing: Listing, now: datetime) -> list[LegacyFile]:
    """The files of the time that the checks look back."""
    return [file for file in listing.files if file.period.end > _first(spec, now)]


def _first(spec: FeedSpec, now: datetime) -> datetime:
    return now - timedelta(hours=spec.checks.look_back_hours)


def is_compared(file: LegacyFile, known: Kept | None) -> bool:
    """Whether the result of a file's period is one of that file as it is."""
    entry = file.entry
    now, then = (entry.path, entry.size, entry.modified), None
    if known is not None:
        then = (known.file, known.file_size, known.file_modified)
    return now == then
