"""One company's messages into its database: one transaction, exactly once in effect."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby

import polars as pl

from lpm_stream.control import parking
from lpm_stream.control.quarantine import Refused, payload_of
from lpm_stream.delivery.bisect import refused_rows
from lpm_stream.delivery.database import CompanyDatabase, Transaction
from lpm_stream.delivery.watermark import ChangesMissingError, Watermark
from lpm_stream.errors import HubError, RowFaultError, TargetFaultError
from lpm_stream.feed.schema import CHANGE_TYPE, COMMIT_VERSION, DELETE, contract_schema
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.codec import decode
from lpm_stream.hub.message import Message, Received


@dataclass(frozen=True)
class Applied:
    """What a company's database took in.

    Attributes:
        watermark: the database's watermark now.
        messages: those that were new.
        changes: number of changes that it had not had before.
        applied_at: when the transaction had been committed.
        refused: number of rows that went to quarantine.
    """

    watermark: Watermark
    messages: tuple[Message, ...]
    changes: int
    applied_at: datetime
    refused: int = 0


class WaitsError(TargetFaultError):
    """The company's stream is meant to wait."""


class HeldError(WaitsError):
    """The stream waits for a backfill, or a replay, of this company.

    Attributes:
        hold: its fence.
    """

    def __init__(self, hold: int) -> None:
        super().__init__("held while the company is loaded from the table")
        self.hold = hold


class PausedError(WaitsError):
    """The stream waits until somebody resumes it."""

    def __init__(self, company: str) -> None:
        super().__init__(f"{parking.PAUSED} {shlex.quote(company)}")


class NotServedError(WaitsError):
    """The company has been removed from the registry."""

    def __init__(self) -> None:
        super().__init__("not served any more")


class MovedError(WaitsError):
    """The company has been given another database, which lacks what was just applied."""

    def __init__(self) -> None:
        super().__init__("it was just given another database; its changes are read again for that one")


@dataclass(frozen=True)
class Batch:
    """Messages of one company to be applied together.

    Attributes:
        received: the messages, in the hub's order, at least one, all of one epoch.
        fence: of the lease under which they are delivered.
        applied_before: sequence number that the database is known to have applied.
    """

    received: Sequence[Received]
    fence: int
    applied_before: int


def apply(
    spec: FeedSpec,
    database: CompanyDatabase,
    batch: Batch,
    quarantine: Callable[[Sequence[Refused]], None],
) -> Applied:
    """Applies messages of one company in one transaction.

    Rows that the table refuses are found by bisection and go to quarantine before the others are committed.

    Args:
        spec: the feed.
        database: the company's.
        batch: the messages.
        quarantine: stores refused rows durably.

    Raises:
        ChangesMissingError: if the database has applied less than `batch.applied_before`, or lacks changes that
            come before these.
        HeldError: while a backfill loads the company.
        TargetFaultError: if the database fails.
        LeaseLostError: if a newer worker writes to it.
        HubError: if a message cannot be decoded.
    """
    rows = _rows(spec, batch.received)
    refused = rows.clear()
    while True:
        try:
            return _apply(spec, database, batch, rows, refused.height)
        except RowFaultError as fault:
            rows = _uncovered(database, rows)
            found = refused_rows(database, _net(spec, rows), _merge, fault)
            quarantine([refusal(spec, row, reason) for row, reason in found])
            refused = pl.concat([refused, *(row for row, _ in found)])
            rows = rows.join(refused, on=[*spec.primary_key, COMMIT_VERSION, CHANGE_TYPE], how="anti")


def _merge(transaction: Transaction, rows: pl.DataFrame) -> None:
    transaction.merge(rows)


def _apply(spec: FeedSpec, database: CompanyDatabase, batch: Batch, rows: pl.DataFrame, refused: int) -> Applied:
    with database.transaction() as transaction:
        before = transaction.watermark()
        if before.hold:
            raise HeldError(before.hold)
        if before.sequence_number < batch.applied_before:
            raise ChangesMissingError("an older copy of the database was restored", before)
        fresh = [one.message for one in batch.received if not before.covers(one)]
        after = before
        if fresh:
            after = before.after(batch.received, batch.fence)
            after = replace(after, changes=after.changes - refused)
            if rows.height:
                transaction.merge(_net(spec, rows.filter(pl.col(COMMIT_VERSION) > before.version)))
            transaction.store(after)
    return Applied(after, tuple(fresh), after.changes - before.changes, datetime.now(UTC), refused)


def _rows(spec: FeedSpec, received: Sequence[Received]) -> pl.DataFrame:
    """The messages' changes, each with its commit version."""
    schema = contract_schema(spec)
    full = (one.message for one in received if one.message.rows)
    frames = []
    for content_type, run in groupby(full, key=lambda message: message.content_type):
        messages = list(run)
        rows = decode([message.body for message in messages], content_type, schema)
        if rows.height != sum(message.rows for message in messages):
            raise HubError(f"messages of {messages[0].company!r} do not hold the number of rows that they say")
        versions = [pl.Series([message.version]).new_from_index(0, message.rows) for message in messages]
        frames.append(rows.with_columns(pl.concat(versions).alias(COMMIT_VERSION)))
    return (
        pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame(schema=[COMMIT_VERSION, CHANGE_TYPE])
    )


def _net(spec: FeedSpec, rows: pl.DataFrame) -> pl.DataFrame:
    """The change that counts for each key: that of the newest version, and within a version the upsert."""
    narrow = rows.select(*spec.primary_key, COMMIT_VERSION, pl.col(CHANGE_TYPE) != DELETE).with_row_index("_index")
    newest = narrow.sort(COMMIT_VERSION, CHANGE_TYPE, maintain_order=True).unique(spec.primary_key, keep="last")
    if newest.height == rows.height:
        return rows
    return rows[newest["_index"].sort()]


def _uncovered(database: CompanyDatabase, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that the watermark does not cover: others are not written, whatever the table would say to them."""
    with database.transaction() as transaction:
        return rows.filter(pl.col(COMMIT_VERSION) > transaction.watermark().version)


def refusal(spec: FeedSpec, row: pl.DataFrame, reason: str) -> Refused:
    """What goes to quarantine for a row that the table refuses: one with its commit version."""
    values = row.row(0, named=True)
    version = values.pop(COMMIT_VERSION)
    return Refused(values[spec.company_column], version, "deliver", reason, payload_of(values))
