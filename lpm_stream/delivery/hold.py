"""Holding one company's stream while its rows come from the table."""

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace

from lpm_stream.control import leases
from lpm_stream.control.leases import Lease
from lpm_stream.delivery.database import CompanyDatabase, Transaction
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LeaseLostError, LpmStreamError
from lpm_stream.stream import Stream


def loading(stream: Stream, company: str) -> AbstractContextManager[Lease]:
    """The lease of whoever brings a company rows from the table: a backfill, or a replay.

    Raises:
        LpmStreamError: if another has it.
    """
    name = leases.lease_name("backfill", stream.spec.name, company)
    worker = leases.worker_name(f"backfill-{uuid.uuid4().hex[:8]}")
    return leases.alone(stream.store, name, worker, f"company {company!r} is being loaded")


def hold(database: CompanyDatabase, lease: Lease) -> Watermark:
    """Has the stream wait, for as long as the lease lasts; what a dead backfill has left goes.

    Returns:
        What the database has applied.
    """
    with database.transaction() as transaction:
        mark = transaction.watermark()
        transaction.store(replace(mark, hold=lease.fence))
        transaction.drop_replacement()
    return replace(mark, hold=0)  # also of one that a dead backfill has left


def require_held(transaction: Transaction, lease: Lease, what: str) -> None:
    """Makes sure that the stream has not gone on meanwhile.

    Args:
        transaction: of the company's database.
        lease: under which it was held.
        what: whose it is, for people: `the backfill of company 'A'`.

    Raises:
        LeaseLostError: if it has.
    """
    if transaction.watermark().hold != lease.fence:
        raise LeaseLostError(f"{what} took too long between two batches, and the stream went on; run it again")


@contextmanager
def held(database: CompanyDatabase, lease: Lease) -> Iterator[Watermark]:
    """Holds the stream, and releases it whatever comes; else the deliverer does once the lease has run out."""
    mark = hold(database, lease)
    try:
        yield mark
    finally:
        with suppress(LpmStreamError), database.transaction() as transaction:
            now = transaction.watermark()
            if now.hold == lease.fence:
                transaction.store(replace(now, hold=0))
