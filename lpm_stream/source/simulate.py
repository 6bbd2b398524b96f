"""Keeps a source table busy at a steady rate: inserts, late corrections and deletes of recent rows.

Most commits append new rows. Every third is a MERGE that inserts as well, and beside that corrects and deletes rows
of one earlier append. A MERGE rewrites the files it touches, so what it may touch is kept small: the rows of recent
appends only, found through literal bounds on the key (time-ordered keys let it skip all other files), never the rows
that another MERGE inserted, and nothing that has been compacted. So a commit costs the same after hours.
"""

import importlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import DeltaError

from lpm_stream.errors import SourceError
from lpm_stream.feed.schema import contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.source.delta import CDF_PROPERTY

_UPDATE_SHARE, _DELETE_SHARE = 0.08, 0.02  # of all changes; the rest are inserts
_MERGE_EVERY = 3  # commits
_REMEMBERED_ROWS = 10_000  # of recent appends, to be corrected or deleted
_COMPACT_EVERY = 500  # commits
_COMPACTED_BYTES = 16 * 2**20  # a compacted file of this size is left alone from then on
_CATCH_UP_SECONDS = 10  # a longer pause (a suspended machine) is not made up for
_ACTION = "_action"


@dataclass(frozen=True)
class Committed:
    """What was committed: changed rows by kind, and the table versions that carry them."""

    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    versions: int = 0

    def __add__(self, other: "Committed") -> "Committed":
        return Committed(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def changes(self) -> int:
        """All changed rows."""
        return self.inserts + self.updates + self.deletes


class Rows(Protocol):
    """What a feed's `simulate` module offers; frames are in the contract's columns and types."""

    def new_rows(
        self, rng: np.random.Generator, companies: Sequence[str], count: int, now: datetime
    ) -> pl.DataFrame:
        """`count` new rows, with keys never used before."""
        ...

    def corrected(self, rng: np.random.Generator, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """The rows with other values; keys and companies are the same."""
        ...


class Simulator:
    """Writes one feed's table, which it creates if there is none.

    Attributes:
        committed: what this simulator has committed so far.
    """

    def __init__(
        self, spec: FeedSpec, location: str, companies: Sequence[str], rate: float, seed: int | None = None
    ) -> None:
        """Opens or creates the table.

        Args:
            spec: the feed; rows come from `lpm_stream.defs.<its name>.simulate`.
            location: path or URL of the table.
            companies: company ids, the busiest first.
            rate: changed rows a second.
            seed: makes the rows repeatable; a table that exists already still gets rows other than its own.

        Raises:
            SourceError: if the feed has no simulator, or the table can be neither opened nor created.
        """
        self._spec = spec
        self._location = location
        self._companies = companies
        self._rate = rate
        self._rows = _rows_of(spec)
        with _writing(location):
            self._table = _open_or_create(spec, location)
        self._rng = np.random.default_rng(None if seed is None else [seed, self._table.version()])
        self._recent: deque[pl.DataFrame] = deque()
        self._last_step: datetime | None = None
        self._owed = 0.0
        self.committed = Committed()

    def run(self, stop: threading.Event, seconds: float = float("inf")) -> Committed:
        """Commits about once a second until `stop` is set or `seconds` have passed.

        Raises:
            SourceError: if the table cannot be written.
        """
        begun, before = time.monotonic(), self.committed
        ...

    def step(self, now: datetime) -> Committed:
        """One commit of the rows due by `now`: those of a second at first, then of the time since the last step.

        Raises:
            SourceError: if the table cannot be written.
        """
