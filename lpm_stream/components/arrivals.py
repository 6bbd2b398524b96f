"""What a tick of the sensor of legacy files does: look, and have compared what has come whole."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import AwareDatetime, BaseModel, ConfigDict

from lpm_stream.components.checks import CheckConfig, check_op
from lpm_stream.components.cursors import read_cursor
from lpm_stream.components.tags import COMPANY_TAG
from lpm_stream.control import reconciliations, registry
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.settings import Settings
from lpm_stream.stream import open_stream

if TYPE_CHECKING:
    from lpm_stream.legacy.listing import LegacyFile

_MOST_FILES = 500  # in the cursor, which Dagster stores with every tick; the schedule has the others compared


class Seen(BaseModel):
    """A file that is not compared yet.

    Attributes:
        size: in bytes, when last looked at.
        modified: when it was last written to.
        asked: whether a run was asked for to compare it as it is.
    """

    model_config = ConfigDict(frozen=True)

    size: int
    modified: AwareDatetime
    asked: bool = False


class Cursor(BaseModel):
    """What the last look has shown: path to file."""

    model_config = ConfigDict(frozen=True)

    files: Mapping[str, Seen] = {}

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """The cursor that the last tick left.

        Raises:
            LpmStreamError: if it cannot be read.
        """
        return read_cursor(cls, text) if text else cls()


def arrivals_tick(spec: FeedSpec, context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Looks for legacy files that were not compared yet, and asks for a run for those that grow no more.

    Raises:
        LegacyError: if the files cannot be listed.
        LpmStreamError: if the control store cannot be opened.
    """
    cursor = Cursor.read(context.cursor)
    new, growing = _look(spec, cursor)
    ready = [
        file
        for file in new
        if file.entry.path not in growing and not _asked(cursor.files.get(file.entry.path), file)
    ]
    paths = {file.entry.path for file in ready}
    files = {
        file.entry.path: Seen(
            size=file.entry.size,
            modified=file.entry.modified,
            asked=file.entry.path in paths or _asked(cursor.files.get(file.entry.path), file),
        )
        for file in new
    }
    after = Cursor(files=files).model_dump_json()
    what = f"{len(new):,} new files, {len(growing):,} of them may still grow" if new else "no new file"
    if not ready:
        return dg.SensorResult(cursor=after, skip_reason=what)
    return dg.SensorResult(cursor=after, run_requests=[_request(spec, ready)])


def _look(spec: FeedSpec, cursor: Cursor) -> "tuple[Sequence[LegacyFile], frozenset[str]]":
    """The newest files that were not compared yet, and the paths of those that may still grow."""
    from lpm_stream.checks.files import is_compared, judged  # noqa: PLC0415 - it brings DuckDB
    from lpm_stream.legacy.listing import list_files  # noqa: PLC0415
    from lpm_stream.legacy.location import Entry, open_location  # noqa: PLC0415
    from lpm_stream.legacy.reconcile import declared_format  # noqa: PLC0415

    before = {path: Entry(path, seen.size, seen.modified) for path, seen in cursor.files.items()}
    now = datetime.now(UTC)
    with open_stream(Settings.load(), spec) as stream, open_location(stream.settings) as location:
        companies = registry.registered(stream.store, stream.spec.name)
        listing = list_files(location, declared_format(stream), companies, now, before)
        kept = reconciliations.read(stream.store, spec.name)
    results = {(one.company, one.period_start): one for one in kept}
    new = [
        file
        for file in judged(spec, listing, now)
        if not is_compared(file, results.get((file.company, file.period.start)))
    ][-_MOST_FILES:]
    return new, listing.growing & {file.entry.path for file in new}


def _asked(seen: Seen | None, file: "LegacyFile") -> bool:
    return seen is not None and seen.asked and (seen.size, seen.modified) == (file.entry.size, file.entry.modified)


def _request(spec: FeedSpec, ready: "Sequence[LegacyFile]") -> dg.RunRequest:
    """One run for all; its key is the same for the same files, so that a repeated tick starts no second."""
    companies = sorted({file.company for file in ready})
    state = sorted(f"{file.entry.path}\0{file.entry.size}\0{file.entry.modified.isoformat()}" for file in ready)
    names = companies[0] if len(companies) == 1 else f"{len(companies)} companies"
    return dg.RunRequest(
        run_key=hashlib.sha256("\n".join(state).encode()).hexdigest()[:32],
        run_config=dg.RunConfig(ops={check_op(spec): CheckConfig(companies=companies)}),
        tags={COMPANY_TAG: names},
    )
