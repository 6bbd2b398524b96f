"""The work on one company at a time, as it runs in the slots' threads."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lpm_stream.control import leases, progress, quarantine, registry
from lpm_stream.control.parking import Parked
from lpm_stream.control.registry import Revision, Served
from lpm_stream.control.store import ControlStore
from lpm_stream.delivery.apply import (
    Applied,
    Batch,
    HeldError,
    MovedError,
    NotServedError,
    PausedError,
    apply,
)
from lpm_stream.delivery.database import CompanyDatabase, open_database
from lpm_stream.delivery.entitled import EntitlementsChangedError
from lpm_stream.delivery.lanes import BATCH_ROWS, Outcome
from lpm_stream.delivery.pool import DatabasePool, Place
from lpm_stream.delivery.watermark import ChangesMissingError, Watermark
from lpm_stream.errors import HubGapError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.message import Hub, Received
from lpm_stream.settings import Settings

log = logging.getLogger(__name__)

_RECOVERY_MESSAGES = 500
_REGISTRY_SECONDS = 0.5  # how long an answer of the registry holds


class Worker:
    """Applies messages to company databases; every method may run in several threads at once."""

    def __init__(self, spec: FeedSpec, hub: Hub, store: ControlStore, settings: Settings, fence: int) -> None:
        self._spec = spec
        self._hub = hub
        self._store = store
        self._settings = settings
        self._fence = fence
        self._known: tuple[Revision | None, Mapping[str, Served]] = (None, {})  # replaced as one, by any thread
        self._asked = -_REGISTRY_SECONDS
        self._pool = DatabasePool(self._open)

    def is_registered(self, company: str) -> bool:
        """Whether the company is served; the registry is asked again before the answer is no."""
        return self._served(company) is not None

    def registered(self) -> Collection[str]:
        """The companies that are served, as of a moment ago."""
        if time.monotonic() - self._asked > _REGISTRY_SECONDS:
            self._ask()
        return self._known[1].keys()

    def _served(self, company: str) -> Served | None:
        if company not in self.registered():
            self._ask()
        return self._known[1].get(company)

    def _ask(self) -> None:
        """Asks the registry, which for the most part has nothing new to say."""
        revision = registry.revision(self._store)
        if revision != self._known[0]:
            self._known = (revision, registry.served(self._store, self._settings, self._spec.name))
        self._asked = time.monotonic()

    @contextmanager
    def _borrowed(self, company: str) -> Iterator[CompanyDatabase]:
        """The database of a company that is to be delivered to.

        Raises:
            PausedError: if it is paused.
            NotServedError: if it is not served any more.
            MovedError: if it has another database by the time that this one is given back.
            TargetFaultError: if it cannot be opened.
        """
        served = self._served(company)
        if served is None:
            raise NotServedError
        if served.paused:
            raise PausedError(company)
        try:
            with self._pool.borrow((company, served.database, served.entitlement)) as database:
                yield database
                self._require_still_there(served)
        except ChangesMissingError:
            self._require_still_there(served)
            raise
        except EntitlementsChangedError:
            self._asked = -_REGISTRY_SECONDS
            raise

    def _require_still_there(self, served: Served) -> None:
        """Makes sure that what was found, or just committed, is in the database that the company has.

        It may have been given another one since the registry was asked, and loaded there before these changes.
        """
        now = registry.served_now(self._store, self._settings, self._spec.name, served.company)
        if now is not None and now.database == served.database:
            return
        self._asked = -_REGISTRY_SECONDS
        raise NotServedError if now is None else MovedError

    def serve(self, company: str, received: Sequence[Received], applied_before: int) -> Outcome:
        """Applies messages of one company.

        Args:
            company: its id.
            received: its messages, in order, at least one, of one epoch.
            applied_before: sequence number that its database is known to have applied.

        Raises:
            LpmStreamError: as `apply` does.
        """
        with self._borrowed(company) as database:
            try:
                applied = self._apply(database, received, applied_before)
            except HeldError:
                self._released(company, database)
                applied = self._apply(database, received, applied_before)
        return Outcome(applied, received[-1].sequence_number, applied.watermark)

    def recover(self, state: Parked, applied_before: int) -> Outcome:
        """A parked company's own reader: the next of its messages, from where it was parked or its database is.

        Raises:
            LpmStreamError: as `apply` and the hub do.
        """
        company = state.company
        wanted, end = None, 0
        if state.kind == "gap":
            wanted = self._published(company)
            end = self._hub.end(state.partition) if state.partition >= 0 else 0  # it holds what was published
        with self._borrowed(company) as database:
            mark = self._released(company, database)
            after = state.sequence_number - 1
            if state.kind != "gap":  # else the database's place may be one of a hub file that is gone
                after = max(after, mark.sequence_number)
            try:
                mine, through = self._read(state, after)
            except HubGapError as gap:
                return Outcome(None, gap.resume_after, mark, gap=str(gap), is_whole=False)
            applied = self._apply(database, mine, applied_before) if mine else None
        mark = applied.watermark if applied else mark
        return Outcome(
            applied,
            through,
            mark,
            is_whole=wanted is None or (mark.epoch == wanted[0] and mark.version >= wanted[1]),
            shows_from=end,
        )

    def close(self) -> None:
        """Closes the databases."""
        self._pool.close()

    def _published(self, company: str) -> tuple[int, int] | None:
        """Epoch and version that the database must have before nothing is missing in it."""
        cursor = progress.read_cursor(self._store, self._spec.name)
        version = progress.read_published(self._store, self._spec.name).get(company, -1)
        return (cursor.epoch, version) if cursor and version >= 0 else None

    def _released(self, company: str, database: CompanyDatabase) -> Watermark:
        """The watermark, once no backfill holds the stream; a hold that a dead one has left is removed.

        Raises:
            HeldError: if the backfill lives.
        """
        with database.transaction() as transaction:
            mark = transaction.watermark()
            if mark.hold:
                name = leases.lease_name("backfill", self._spec.name, company)
                if leases.is_held(self._store, name, mark.hold):
                    raise HeldError(mark.hold)
                log.warning("company %r: whoever loaded it has died; the stream goes on", company)
                mark = replace(mark, hold=0)
                transaction.store(replace(mark, fence=self._fence))
                transaction.drop_replacement()  # what it has built is taken up by nobody
        return mark

    def _read(self, state: Parked, after: int) -> tuple[list[Received], int]:
        """A transaction's worth of the company's messages behind `after`, and how far that is read."""
        mine: list[Received] = []
        through = after
        if state.partition < 0:  # nothing was ever received: where its messages are is not known
            return mine, through
        for one in self._hub.receive(state.partition, after, _RECOVERY_MESSAGES):
            if (one.message.company, one.message.feed) == (state.company, self._spec.name):
                rows = sum(other.message.rows for other in mine)
                if mine and (rows >= BATCH_ROWS or one.message.epoch != mine[0].message.epoch):
                    break
                mine.append(one)
            through = one.sequence_number
        return mine, through

    def _apply(self, database: CompanyDatabase, received: Sequence[Received], applied_before: int) -> Applied:
        return apply(self._spec, database, Batch(received, self._fence, applied_before), self._quarantine)

    def _open(self, place: Place) -> CompanyDatabase:
        company, database, entitlement = place
        return open_database(self._spec, company, database, entitlement)

    def _quarantine(self, refused: Sequence[quarantine.Refused]) -> None:
        with self._store.write() as connection:
            quarantine.add(connection, self._spec.name, refused)
            quarantine.require_room(connection, self._spec, refused[0].company)
        log.warning(
            "company %r: its database refuses rows; %d more are in quarantine", refused[0].company, len(refused)
        )
