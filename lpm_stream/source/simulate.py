"""Keeps a source table busy at a steady rate: inserts, late corrections and deletes of recent rows.

Most commits append new rows. Every third is a MERGE, which inserts rows and also corrects and deletes some of one
earlier append. A MERGE rewrites the files it touches, so what it may touch is kept small: rows of recent appends,
never those that another MERGE inserted, nor anything that has been compacted. So a commit costs the same after
hours.
"""

import importlib
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

import numpy as np
import polars as pl

from lpm_stream.errors import SourceError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.simulated_table import Committed, SimulatedTable

__all__ = ["Committed", "FeedRows", "Simulator"]

_UPDATE_SHARE, _DELETE_SHARE = 0.08, 0.02  # of all changes; the rest are inserts
_MERGE_EVERY = 3  # commits
_COMPACT_EVERY = 200  # commits
_REMEMBERED_APPENDS, _REMEMBERED_ROWS = 40, 20_000  # what may be corrected or deleted; the lower limit counts
_CATCH_UP_SECONDS = 10  # a longer pause (a suspended machine) is not made up for


class FeedRows(Protocol):
    """What a feed's `simulate` module offers; frames are in the contract's columns and types."""

    def new_rows(
        self, rng: np.random.Generator, companies: Sequence[str], count: int, now: datetime
    ) -> pl.DataFrame:
        """`count` new rows, with keys never used before."""

    def corrected(self, rng: np.random.Generator, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """The rows with other values; keys and companies stay."""


class Simulator:
    """Writes a feed's table, which it creates if there is none, and goes on with one that exists.

    Attributes:
        committed: what it has committed so far.
    """

    def __init__(
        self, spec: FeedSpec, location: str, companies: Sequence[str], rate: float, seed: int | None = None
    ) -> None:
        """Opens or creates the table.

        Args:
            spec: the feed; its rows come from `lpm_stream.defs.<name>.simulate`.
            location: path or URL of the table.
            companies: company ids, the busiest first.
            rate: changed rows a second.
            seed: makes the rows repeatable, except that a table which exists gets others than its own again.

        Raises:
            SourceError: if the feed has no simulator, or the table can be neither opened nor created.
        """
        self._columns = spec.column_names
        self._companies = companies
        self._rate = rate
        self._rows = _feed_rows(spec)
        self._table = SimulatedTable(spec, location)
        self._rng = np.random.default_rng(None if seed is None else [seed, self._table.version])
        self._recent: deque[pl.DataFrame] = deque(maxlen=_REMEMBERED_APPENDS)
        self._commits = 0
        self._owed = 0.0
        self._last_step: datetime | None = None
        self.committed = Committed()

    def run(self, stop: threading.Event, seconds: float = math.inf) -> Committed:
        """Commits about once a second until `stop` is set or `seconds` have passed.

        Raises:
            SourceError: if the table cannot be written.
        """
        done = Committed()
        end = time.monotonic() + seconds
        while not stop.is_set() and (begun := time.monotonic()) < end:
            done += self.step(datetime.now(UTC))
            stop.wait(max(0, min(begun + 1, end) - time.monotonic()))
        return done

    def step(self, now: datetime) -> Committed:
        """Commits what is due by `now`: a second's rows at first, then those of the time since the last step.

        Raises:
            SourceError: if the table cannot be written.
        """
        elapsed = 1.0 if self._last_step is None else (now - self._last_step).total_seconds()
        self._last_step = now
        self._owed += self._rate * min(max(elapsed, 0), _CATCH_UP_SECONDS)
        count = int(self._owed)
        self._owed -= count
        return self._commit(count, now) if count else Committed()

    def backlog(self, rows: int, rows_per_commit: int) -> Committed:
        """Commits a history of `rows` changes, a commit for each past second, as fast as it can.

        Memory holds the rows of a few commits, not more.

        Raises:
            SourceError: if the table cannot be written.
        """
        done = Committed()
        sizes = [min(rows_per_commit, rows - begin) for begin in range(0, rows, rows_per_commit)]
        begun = datetime.now(UTC) - timedelta(seconds=len(sizes))
        for second, size in enumerate(sizes):
            done += self._commit(size, begun + timedelta(seconds=second))
        return done

    def _commit(self, count: int, now: datetime) -> Committed:
        self._commits += 1
        merges = self._recent and self._commits % _MERGE_EVERY == 0
        done = self._merge(count, now) if merges else self._append(count, now)
        self.committed += done
        if self._commits % _COMPACT_EVERY == 0:
            self._table.compact()
            self._recent.clear()
        return done

    def _append(self, count: int, now: datetime) -> Committed:
        rows = self._new_rows(count, now)
        done = self._table.append(rows)
        self._recent.append(rows)
        while len(self._recent) > 1 and sum(block.height for block in self._recent) > _REMEMBERED_ROWS:
            self._recent.popleft()
        return done

    def _merge(self, count: int, now: datetime) -> Committed:
        shares = (_UPDATE_SHARE * _MERGE_EVERY, _DELETE_SHARE * _MERGE_EVERY)
        updates, deletes, _ = self._rng.multinomial(count, (*shares, 1 - sum(shares)))
        place = int(self._rng.integers(len(self._recent)))
        block = self._recent[place]
        block = block[self._rng.permutation(block.height)]
        updated, deleted, kept = block[:updates], block[updates : updates + deletes], block[updates + deletes :]
        if not updated.height + deleted.height:
            return self._append(count, now)
        updated = self._rows.corrected(self._rng, updated, now).select(self._columns)
        inserted = self._new_rows(count - updated.height - deleted.height, now)
        done = self._table.merge(inserted, updated, deleted)
        self._recent[place] = pl.concat([updated, kept])
        return done

    def _new_rows(self, count: int, now: datetime) -> pl.DataFrame:
        return self._rows.new_rows(self._rng, self._companies, count, now).select(self._columns)


def _feed_rows(spec: FeedSpec) -> FeedRows:
    name = f"lpm_stream.defs.{spec.name}.simulate"
    try:
        return cast("FeedRows", importlib.import_module(name))
    except ModuleNotFoundError as error:
        raise SourceError(f"feed {spec.name} cannot be simulated: there is no module {name}") from error
