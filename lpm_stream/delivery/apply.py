"""One company's messages into its database: one transaction, exactly once in effect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl

from lpm_stream.control.quarantine import Refused, payload_of
from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import RowFaultError, TargetFaultError
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
        applied_at: when the transaction had been committed.
        refused: number of rows that went to quarantine.
    """

    watermark: Watermark
    messages: tuple[Message, ...]
    applied_at: datetime
    refused: int = 0


class WatermarkWentBackError(TargetFaultError):
    """A database has applied less than it had before: an older copy was put in its place.

    Attributes:
        sequence_number: of the newest message that it still has.
    """

    def __init__(self, sequence_number: int) -> None:
        super().__init__(
            f"the database's watermark went back to message {sequence_number}: an older copy was restored; "
            f"delivering again from there"
        )
        self.sequence_number = sequence_number


def apply(
    spec: FeedSpec,
    database: CompanyDatabase,
    received: Sequence[Received],
    *,
    fence: int,
    applied_before: int,
    quarantine: Callable[[Sequence[Refused]], None],
) -> Applied:
    """Applies messages of one company in one transaction.

    Rows that the table refuses are found by bisection and go to quarantine before the others are committed.

    Args:
        spec: the feed.
        database: the company's.
        received: the company's messages, in the hub's order.
        fence: of the caller's lease.
        applied_before: sequence number that the database is known to have applied.
        quarantine: stores refused rows durably.

    Raises:
        WatermarkWentBackError: if the database has applied less than `applied_before`.
        TargetFaultError: if the database fails.
        LeaseLostError: if a newer worker writes to it.
        HubError: if a message cannot be decoded.
    """
    refused = _NOTHING
    while True:
        try:
            return _apply_without(refused, spec, database, received, fence, applied_before)
        except RowFaultError as fault:
            rows = _net(spec, _without(spec, _rows(spec, received), refused))
            found = _refused_rows(database, rows)
            if not found:
                raise TargetFaultError(
                    f"the table refuses rows together that it takes one by one: {fault}"
                ) from fault
            quarantine([_refusal(spec, row, reason) for row, reason in found])
            refused = pl.concat([row for row, _ in found] + ([refused] if refused.height else []))


_NOTHING = pl.DataFrame()


class _UndoError(Exception):
    """Rolls a trial back."""


def _apply_without(
    refused: pl.DataFrame,
    spec: FeedSpec,
    database: CompanyDatabase,
    received: Sequence[Received],
    fence: int,
    applied_before: int,
) -> Applied:
    with database.transaction() as transaction:
        before = transaction.watermark()
        if before.sequence_number < applied_before:
            raise WatermarkWentBackError(before.sequence_number)
        fresh = [one for one in received if not before.covers(one.message)]
        after = before
        if fresh:
            rows = _rows(spec, fresh)
            if rows.height:
                transaction.merge(_net(spec, _without(spec, rows, refused)))
            after = before.after(received, fence)
            after = replace(after, changes=after.changes - refused.height)
            transaction.store(after)
    return Applied(after, tuple(one.message for one in fresh), datetime.now(UTC), refused.height)


def _rows(spec: FeedSpec, received: Sequence[Received]) -> pl.DataFrame:
    """The messages' changes, each with its commit version."""
    schema = contract_schema(spec)
    frames = [
        decode(one.message.body, one.message.content_type, schema).with_columns(
            pl.lit(one.message.version, pl.Int64).alias(COMMIT_VERSION)
        )
        for one in received
        if one.message.rows
    ]
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()


def _net(spec: FeedSpec, rows: pl.DataFrame) -> pl.DataFrame:
    """The change that counts for each key: that of the newest version, and within a version the upsert."""
    order = pl.struct(pl.col(COMMIT_VERSION), pl.col(CHANGE_TYPE) != DELETE)
    if rows.height == rows.select(spec.primary_key).n_unique():
        return rows
    return rows.sort(order, maintain_order=True).unique(spec.primary_key, keep="last", maintain_order=True)


def _without(spec: FeedSpec, rows: pl.DataFrame, refused: pl.DataFrame) -> pl.DataFrame:
    if refused.is_empty():
        return rows
    return rows.join(refused, on=[*spec.primary_key, COMMIT_VERSION, CHANGE_TYPE], how="anti")


def _refused_rows(database: CompanyDatabase, rows: pl.DataFrame) -> list[tuple[pl.DataFrame, str]]:
    """The rows that the table does not take, found by halving what fails, each with the reason."""
    try:
        with database.transaction() as transaction:
            transaction.merge(rows)
            raise _UndoError
    except _UndoError:
        return []
    except RowFaultError as fault:
        if rows.height == 1:
            return [(rows, str(fault))]
    half = rows.height // 2
    return _refused_rows(database, rows.head(half)) + _refused_rows(database, rows.tail(-half))


def _refusal(spec: FeedSpec, row: pl.DataFrame, reason: str) -> Refused:
    values = row.row(0, named=True)
    version = values.pop(COMMIT_VERSION)
    return Refused(values[spec.company_column], version, "deliver", reason, payload_of(values))
