"""Changes out of a Delta table: its Change Data Feed, one commit version at a time."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lpm_stream.errors import SourceError
from lpm_stream.feed.schema import Fit, fit
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.failure import unreadable

log = logging.getLogger(__name__)

CDF_PROPERTY = "delta.enableChangeDataFeed"

# Reading one version costs time for every later version that the open snapshot knows (about 30 microseconds
# each in deltalake 1.6), and opening a snapshot costs 5 ms or more: so open one this far ahead.
_VERSIONS_AHEAD = 64
_FRAME_ROWS = 30_000
_LOOKED_BACK = 64  # commits; reading of more takes longer than it is worth in a backlog
_ESCAPED_TWICE = "%25"  # in a path: an escape sign, escaped


@dataclass(frozen=True)
class Changes:
    """The changes of one commit.

    Attributes:
        version: the commit's version.
        fit: how the table's schema at that version fits the contract.
        batches: frames of some ten thousand rows: the table's columns, `_change_type` (insert,
            update_preimage, update_postimage, delete), `_commit_version` and `_commit_timestamp` (UTC).
    """

    version: int
    fit: Fit
    batches: Iterator[pl.DataFrame]


class DeltaSource:
    """A Delta table with Change Data Feed on."""

    def __init__(self, spec: FeedSpec, location: str) -> None:
        self._spec = spec
        self.location = location
        self._newest = self._open(None)
        self._window = self._newest
        self._schema: dict[str, pl.DataType] | None = None  # at the version read last
        self._require_cdf()
        self.table_id = str(self._newest.metadata().id)
        self._newest_commit: dict[str, Any] | None = None  # as the log tells of it; not every writer does

    def newest_version(self) -> int:
        """Looks for new commits (about 1 ms) and returns the newest version.

        Raises:
            SourceError: if the table has gone, or another one stands in its place.
        """
        known = self._newest.version()
        try:
            self._newest.update_incremental()
            expected = self._newest.version() - known + 1
            commits = [commit | {"version": None} for commit in self._newest.history(expected)]
        except (DeltaError, OSError) as error:  # OSError: the object store does not answer
            raise unreadable(self.location, error) from error
        # A table created anew in the same place goes unnoticed by the open one: it only looks for later versions.
        if str(self._newest.metadata().id) != self.table_id or self._newest_commit not in [*commits, None]:
            raise SourceError(
                f"table {self.location} was removed or replaced by another; the versions of another say nothing "
                f"about what was published: begin anew with lpm-stream resync"
            )
        self._newest_commit = commits[0] if len(commits) == expected else None
        return self._newest.version()

    def commit_seen(self, version: int) -> str | None:
        """Names a commit by its number and what the log tells of it; None if that is far back or not told."""
        back = self._newest.version() - version
        if back > _LOOKED_BACK:
            return None
        return self._named(version, back)

    def has_seen(self, commit_seen: str) -> bool:
        """Whether a commit is still the one that was named so, as far as the log tells.

        Raises:
            SourceError: if the log cannot be read.
        """
        version = int(commit_seen.partition(":")[0])
        return self._named(version, self._newest.version() - version) in {commit_seen, None}

    def _named(self, version: int, back: int) -> str | None:
        try:
            commits = self._newest.history(back + 1)
        except (DeltaError, OSError) as error:
            raise unreadable(self.location, error) from error
        if len(commits) != back + 1:  # not every writer tells of its commits
            return None
        told = json.dumps(commits[-1] | {"version": None}, sort_keys=True, default=str)
        return f"{version}:{hashlib.sha256(told.encode()).hexdigest()[:32]}"

    def changes(self, version: int, taken: Mapping[str, str] = MappingProxyType({})) -> Changes:
        """The changes of one commit; rows are read when `batches` is consumed.

        Args:
            version: the commit's version.
            taken: the columns taken in with the versions before, see `fit`.

        Raises:
            SchemaError: if the table at that version does not fit the contract, or what was taken in.
            SourceError: if the version can no longer be read. Consuming `batches` raises it as well.
        """
        snapshot = self._at(version)
        return Changes(version, fit(self._spec, schema_of(snapshot), taken), self._read(snapshot, version))

    def _read(self, snapshot: DeltaTable, version: int) -> Iterator[pl.DataFrame]:
        """Frames of some `_FRAME_ROWS`; the reader's own batches are smaller than is efficient."""
        frames: list[pl.DataFrame] = []
        try:
            for batch in snapshot.load_cdf(starting_version=version, ending_version=version):
                frames.append(pl.DataFrame(batch))
                if sum(frame.height for frame in frames) >= _FRAME_ROWS:
                    yield pl.concat(frames)
                    frames = []
        except Exception as error:  # deltalake raises no other when a data file is missing or damaged
            raise self._gone(version, error) from error
        if frames:
            yield pl.concat(frames)

    def _gone(self, version: int, error: Exception) -> SourceError:
        if "change data enabled" in str(error):
            return SourceError(
                f"Change Data Feed was off at version {version} of table {self.location}: what was committed "
                f"then is in the table only; begin anew with lpm-stream resync"
            )
        partitions = ", ".join(self._newest.metadata().partition_columns)
        if partitions and _ESCAPED_TWICE in str(error):
            return SourceError(
                f"version {version} of table {self.location}: it is partitioned by {partitions}, and the change "
                f"feed of values with other signs than letters and digits cannot be read (a defect of deltalake: "
                f"it escapes their paths twice); write the table unpartitioned, or clustered, and begin anew with "
                f"lpm-stream resync"
            )
        # The engine's own text may quote values of rows: it is left to --debug.
        log.debug("version %d of table %s: %s", version, self.location, error)
        return SourceError(
            f"version {version} of table {self.location} can no longer be read (--debug says more): if VACUUM or "
            f"log clean-up removed it, begin anew with lpm-stream resync"
        )

    def _at(self, version: int) -> DeltaTable:
        """A snapshot that knows `version`, not many versions more, and has the schema of `version`."""
        if self._may_change_schema(version):
            self._window = self._open(version)
            self._schema = schema_of(self._window)
            return self._window
        for snapshot in (self._newest, self._window):
            near = version <= snapshot.version() < version + _VERSIONS_AHEAD
            if near and schema_of(snapshot) == self._schema:
                return snapshot
        self._window = self._open(min(version + _VERSIONS_AHEAD - 1, self._newest.version()))
        if schema_of(self._window) != self._schema:
            self._window = self._open(version)
            self._schema = schema_of(self._window)
        return self._window

    def _may_change_schema(self, version: int) -> bool:
        """Whether a commit may have changed the schema. That of a later one may be the same again.

        What lies elsewhere than in a local folder is not looked into; those commits are read one by one.
        """
        commit = Path(self.location, "_delta_log", f"{version:020}.json")
        try:
            return '"metaData"' in commit.read_text(encoding="utf-8")
        except OSError:
            return True

    def _open(self, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(self.location, version=version)
        except (DeltaError, OSError) as error:
            if version is not None:
                raise self._gone(version, error) from error
            raise unreadable(self.location, error, "cannot be opened") from error

    def _require_cdf(self) -> None:
        if not has_cdf(self._newest):
            raise SourceError(
                f"Change Data Feed is off on table {self.location}; turn it on with: "
                f"ALTER TABLE {self._spec.source_table} SET TBLPROPERTIES ({CDF_PROPERTY} = true)"
            )


def has_cdf(table: DeltaTable) -> bool:
    """Whether a table's Change Data Feed is on."""
    return table.metadata().configuration.get(CDF_PROPERTY, "false").lower() == "true"


def schema_of(table: DeltaTable) -> dict[str, pl.DataType]:
    """The columns of a table as polars types."""
    return dict(pl.Schema(table.schema().to_arrow()))
