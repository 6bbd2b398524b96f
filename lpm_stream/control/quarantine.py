"""The quarantine: rows that cannot be applied wait here with their reason."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa

from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import quarantine

Stage = Literal["publish", "deliver"]
_IDS_AT_ONCE = 500  # databases limit the parameters of a statement, SQLite to as few as 999


@dataclass(frozen=True)
class Refused:
    """A row that cannot be applied.

    Attributes:
        company: the company it belongs to; empty where the row does not say.
        version: the commit version it came with.
        stage: where it was refused: by the contract on `publish`, by the database on `deliver`.
        reason: why.
        payload: the row as JSON.
    """

    company: str
    version: int
    stage: Stage
    reason: str
    payload: str

    def id(self, feed: str) -> str:
        """The same for the same row of the same commit, so that a re-send does not quarantine it twice."""
        text = f"{feed}\0{self.company}\0{self.version}\0{self.stage}\0{self.payload}"
        return hashlib.sha256(text.encode()).hexdigest()


def add(connection: sa.Connection, feed: str, refused: Sequence[Refused]) -> int:
    """Stores refused rows and returns how many were new."""
    rows = {row.id(feed): row for row in refused}
    ids = list(rows)
    known: set[str] = set()
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = quarantine.c.id.in_(ids[start : start + _IDS_AT_ONCE])
        known.update(connection.execute(sa.select(quarantine.c.id).where(some)).scalars())
    new = [
        {
            "id": row_id,
            "feed": feed,
            "company": row.company,
            "version": row.version,
            "stage": row.stage,
            "reason": row.reason[:2000],
            "payload": row.payload,
            "created_at": datetime.now(UTC),
        }
        for row_id, row in rows.items()
        if row_id not in known
    ]
    if new:
        connection.execute(quarantine.insert(), new)
    return len(new)


def counts(store: ControlStore, feed: str) -> dict[str, int]:
    """Company to the number of its rows in quarantine."""
    query = (
        sa.select(quarantine.c.company, sa.func.count())
        .where(quarantine.c.feed == feed)
        .group_by(quarantine.c.company)
    )
    with store.read() as connection:
        return dict(connection.execute(query).all())


def payload_of(row: Mapping[str, object]) -> str:
    """A row as JSON, for the quarantine; dates and instants as ISO 8601."""
    return json.dumps(row, default=str, ensure_ascii=False)
