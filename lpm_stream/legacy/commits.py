"""When the versions of the source table were committed."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lpm_stream.errors import SourceError
from lpm_stream.source.failure import one_line

_FIRST_LOOK = 256  # commits; then twice as many until it is enough


class Commits:
    """The commits of a table up to the version that it is opened at, read from its log as far back as needed."""

    def __init__(self, table: DeltaTable) -> None:
        self.table = table
        self._times: dict[int, datetime] = {}
        self._complete = False
        self._known = 0

    def newest_by(self, instant: datetime) -> int:
        """The newest version committed by an aware instant; -1, or what lies before the log, if there is none.

        Raises:
            SourceError: if the log cannot be read.
        """
        while not self._complete and all(time > instant for time in self._times.values()):
            self._read_on()
        by_then = [version for version, time in self._times.items() if time <= instant]
        return max(by_then, default=min(self._times, default=self.table.version() + 1) - 1)

    def times(self, oldest: int) -> Mapping[int, datetime]:
        """Version to time, from `oldest` on, of those that the log still has.

        Raises:
            SourceError: if the log cannot be read.
        """
        while not self._complete and min(self._times, default=oldest + 1) > oldest:
            self._read_on()
        return self._times

    def _read_on(self) -> None:
        wanted = max(_FIRST_LOOK, 2 * self._known)
        try:
            newest, commits = _newest_commits(self.table.table_uri, wanted)
        except (DeltaError, OSError) as error:
            raise SourceError(
                f"the log of table {self.table.table_uri} cannot be read: {one_line(error)}"
            ) from error
        self._complete = len(commits) < wanted
        self._known = len(commits)
        self._times = {
            version: datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
            for version, commit in zip(range(newest, -1, -1), commits, strict=False)
            if "timestamp" in commit and version <= self.table.version()
        }


def _newest_commits(location: str, wanted: int) -> tuple[int, list[dict[str, Any]]]:
    """The newest version, and what the log tells of it and those before it, the newest first.

    deltalake 1.6 reads the log up to its end of now, but numbers what it finds from the version that the table
    was opened at. So both are looked at until no commit has come in between.
    """
    table = DeltaTable(location)
    while True:
        newest = table.version()
        commits = table.history(wanted)
        table.update_incremental()
        if table.version() == newest:
            return newest, commits
