"""One company while somebody brings it rows from the table: its lease, its database, its stream held."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Literal, TypeVar

from lpm_stream.control import leases, registry
from lpm_stream.control.leases import Lease
from lpm_stream.control.registry import Revision, Served
from lpm_stream.delivery.apply import WaitsError
from lpm_stream.delivery.database import Transaction
from lpm_stream.delivery.entitled import EntitlementsChangedError
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import (
    LeaseLostError,
    LpmStreamError,
    NoDatabaseError,
    QuarantineFullError,
    TargetFaultError,
)
from lpm_stream.stream import Stream

log = logging.getLogger(__name__)

Work = Literal["backfill", "replay"]

T = TypeVar("T")

_PATIENCE_SECONDS = 3.0  # for others who do the same; a replay is over by then
_PAUSES = (0.5, 2.0, 5.0)  # seconds, between attempts at a transaction
_LASTING = (EntitlementsChangedError, WaitsError, QuarantineFullError, NoDatabaseError)  # no faults that pass


class Loading:
    """The company, as it was when this began.

    Attributes:
        served: who it is, where its database is, and what it may get.
        lease: under which its stream is held.
        database: opened.
    """

    def __init__(self, stream: Stream, company: str, lease: Lease, work: Work) -> None:
        self.lease = lease
        self._stream = stream
        self._what = f"the {work} of company {company!r}"
        self._revision: Revision = registry.revision(stream.store)  # first: a change after it is noticed
        self.served: Served = stream.served(company)
        self.database = stream.open_database(self.served)

    @contextmanager
    def held(self) -> Iterator[Watermark]:
        """Has the stream wait for as long as the block, or the lease, lasts; what a dead backfill has left goes.

        Yields:
            What the database has applied.

        Raises:
            LeaseLostError: if somebody with a newer lease holds it.
        """
        with self.database.transaction() as transaction:
            mark = transaction.watermark()
            if mark.hold > self.lease.fence:
                raise LeaseLostError(f"{self._what} has lost its lease to another; that one goes on")
            transaction.store(replace(mark, hold=self.lease.fence))
            transaction.drop_replacement()
        try:
            yield replace(mark, hold=0)  # also of one that a dead worker has left
        finally:
            self._release()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that ends in an error if the stream was released, or the company changed, meanwhile.

        Raises:
            LeaseLostError: if the stream is not held any more.
            LpmStreamError: if the company is not served any more, or got another database or other columns.
        """
        with self.database.transaction() as transaction:
            self._require_unchanged()
            if transaction.watermark().hold != self.lease.fence:
                raise LeaseLostError(
                    f"{self._what} does not hold the stream any more: it paused for too long, or another has "
                    f"begun; run it again"
                )
            yield transaction

    def patiently(self, work: Callable[[], T]) -> T:
        """Does what writes to the database, and does it again, on a new connection, where that may help.

        What passes by itself (a deadlock, a database that moves or has too much to do) is not the end of hours.
        """
        for pause in _PAUSES:
            try:
                return work()
            except _LASTING:
                raise
            except TargetFaultError as error:
                log.warning("%s: %s; tried again in %g s", self._what, error, pause)
            time.sleep(pause)
            leases.renew(self._stream.store, self.lease)
            self.database.close()
            with suppress(TargetFaultError):  # then the next attempt says so
                self.database = self._stream.open_database(self.served)
        return work()

    def _release(self) -> None:
        try:
            with self.database.transaction() as transaction:
                now = transaction.watermark()
                if now.hold == self.lease.fence:
                    transaction.store(replace(now, hold=0))
                    transaction.drop_replacement()
        except LpmStreamError as error:
            log.warning("%s: %s; the stream goes on once its lease has run out", self._what, error)

    def _require_unchanged(self) -> None:
        revision = registry.revision(self._stream.store)
        if revision == self._revision:
            return
        now, was = self._stream.served(self.served.company), self.served
        if (now.database, now.entitlement) != (was.database, was.entitlement):
            raise LpmStreamError(
                f"company {now.company!r} got another database or other columns meanwhile; run {self._what} again"
            )
        self._revision = revision


@contextmanager
def loading(stream: Stream, company: str, work: Work) -> Iterator[Loading]:
    """A company to bring rows from the table to, under its lease.

    Raises:
        LpmStreamError: if it is not registered, or its database cannot be opened, or another does so for longer
            than some seconds.
    """
    name = leases.lease_name("backfill", stream.spec.name, company)
    worker = leases.worker_name(f"{work}-{uuid.uuid4().hex[:8]}")
    doing = f"company {company!r} is being loaded"
    with leases.alone(stream.store, name, worker, doing, patience=_PATIENCE_SECONDS) as lease:
        begun = Loading(stream, company, lease, work)
        try:
            yield begun
        finally:
            begun.database.close()
