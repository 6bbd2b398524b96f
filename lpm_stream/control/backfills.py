"""Backfills: how far each company's last one is."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from lpm_stream.control.store import ControlStore, upsert
from lpm_stream.control.tables import backfills


@dataclass(frozen=True)
class Backfill:
    """A company's last backfill.

    Attributes:
        id: names it.
        version: the table's version that is loaded.
        rows: number of rows read so far.
        total_rows: number of rows that the company has at that version.
        started_at: when it began.
        finished_at: when it ended, None while it runs or after it was killed.
        outcome: "loaded", or why it failed; empty while it runs.
        loaded_version: the newest version that this one or an earlier one has loaded, -1 if there is none.
        generation: of the entitlements with which that was loaded.
    """

    id: str
    version: int
    rows: int
    total_rows: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str = ""
    loaded_version: int = -1
    generation: int = 0


def write(connection: sa.Connection, feed: str, company: str, backfill: Backfill) -> None:
    """Stores how far a backfill is."""
    values = vars(backfill) | {"outcome": backfill.outcome[:2000]}
    upsert(connection, backfills, {"feed": feed, "company": company}, values)


def read(store: ControlStore, feed: str) -> Mapping[str, Backfill]:
    """Company to its last backfill."""
    with store.read() as connection:
        rows = connection.execute(sa.select(backfills).where(backfills.c.feed == feed)).all()
    return {
        row.company: Backfill(
            row.id,
            row.version,
            row.rows,
            row.total_rows,
            row.started_at,
            row.finished_at,
            row.outcome,
            row.loaded_version,
            row.generation,
        )
        for row in rows
    }
