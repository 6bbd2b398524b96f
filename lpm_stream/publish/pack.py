"""Packs the changes of one commit into messages: one or more chunks for each company."""

import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.codec import CONTENT_TYPES, encode
from lpm_stream.hub.message import Message

# About 350 kB of packed TDRs: far enough below a hub's limit, large enough to compress well.
_CHUNK_ROWS = 2_000
# What all companies' unfinished chunks may hold together. Beyond it all of them are sent as they are.
_BUFFERED_ROWS = 50_000


@dataclass(frozen=True)
class Place:
    """What precedes a commit.

    Attributes:
        epoch: the epoch of its version.
        previous: company to the last version before this one that was published for it.
        full: companies whose quarantine takes nothing more: with the next row that cannot travel, a company's
            version is withheld.
    """

    epoch: int = 0
    previous: Mapping[str, int] = field(default_factory=dict)
    full: frozenset[str] = frozenset()


@dataclass
class _Lane:
    frames: list[pl.DataFrame] = field(default_factory=list)
    rows: int = 0
    chunks: int = 0


class Packer:
    """Collects one commit's changes and hands out messages.

    Each company's last chunk is only known at the end of the commit: `finish` marks it.
    """

    def __init__(
        self, spec: FeedSpec, version: int, committed_at: datetime, place: Place, max_body_bytes: int
    ) -> None:
        self._spec = spec
        self._place = place
        self._version = version
        self._committed_at = committed_at
        self._max_body_bytes = max_body_bytes
        self._content_type = CONTENT_TYPES[spec.wire_format]
        self._fingerprint = spec.fingerprint
        self._attempt = uuid.uuid4().hex[:16]
        self._lanes: defaultdict[str, _Lane] = defaultdict(_Lane)
        self._withheld: set[str] = set()
        self.oversized: list[pl.DataFrame] = []
        """Rows that alone exceed the hub's limit; they cannot travel."""

    def add(self, by_company: dict[str, pl.DataFrame]) -> list[Message]:
        """Takes changes in; returns the chunks that are full."""
        messages: list[Message] = []
        for company, rows in by_company.items():
            if company in self._withheld:
                continue
            lane = self._lanes[company]
            lane.frames.append(rows)
            lane.rows += rows.height
            if lane.rows >= _CHUNK_ROWS:
                messages += self._flush(company, last=False)
        if sum(lane.rows for lane in self._lanes.values()) > _BUFFERED_ROWS:
            for company in self._lanes:
                messages += self._flush(company, last=False)
        return messages

    def withhold(self, company: str) -> None:
        """Sends nothing more of a company: its version stays without a last chunk, and so incomplete."""
        self._withheld.add(company)
        self._lanes[company].frames, self._lanes[company].rows = [], 0

    @property
    def companies(self) -> tuple[str, ...]:
        """The companies that have changes in the commit."""
        return tuple(self._lanes)

    def finish(self) -> list[Message]:
        """The rest, with every company's last chunk marked as such (it may be empty)."""
        whole = self._lanes.keys() - self._withheld
        return [
            message for company in self._lanes if company in whole for message in self._flush(company, last=True)
        ]

    def _flush(self, company: str, *, last: bool) -> list[Message]:
        lane = self._lanes[company]
        bodies = self._bodies(pl.concat(lane.frames)) if lane.rows else []
        if last and not bodies:
            bodies = [(0, b"")]
        lane.frames, lane.rows = [], 0
        messages = []
        for index, (rows, body) in enumerate(bodies):
            ends = last and index == len(bodies) - 1
            messages.append(self._message(company, lane.chunks, ends, rows, body))
            lane.chunks += 1
        return messages

    def _bodies(self, rows: pl.DataFrame) -> list[tuple[int, bytes]]:
        """Bodies within the hub's limit, with the number of rows in each."""
        if rows.height > _CHUNK_ROWS:
            return [body for part in rows.iter_slices(_CHUNK_ROWS) for body in self._bodies(part)]
        body = encode(rows, self._content_type)
        if len(body) <= self._max_body_bytes:
            return [(rows.height, body)]
        if rows.height == 1:
            self.oversized.append(rows)
            return []
        half = rows.height // 2
        return self._bodies(rows.head(half)) + self._bodies(rows.tail(-half))

    def _message(self, company: str, chunk: int, last: bool, rows: int, body: bytes) -> Message:
        previous = self._place.previous.get(company, -1)
        return Message(
            feed=self._spec.name,
            company=company,
            epoch=self._place.epoch,
            version=self._version,
            # A backfill was ahead, or the cursor was set back: what is really before this one is not known.
            previous=previous if previous < self._version else self._version - 1,
            committed_at=self._committed_at,
            chunk=chunk,
            last=last,
            attempt=self._attempt,
            rows=rows,
            fingerprint=self._fingerprint,
            content_type=self._content_type,
            body=body,
        )
