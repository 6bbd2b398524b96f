"""The work on one company at a time, as it runs in the slots' threads."""

from collections.abc import Sequence

from lpm_stream.control import quarantine, registry
from lpm_stream.control.parking import Parked
from lpm_stream.control.store import ControlStore
from lpm_stream.delivery.apply import Applied, Batch, apply
from lpm_stream.delivery.database import CompanyDatabase, open_database
from lpm_stream.delivery.lanes import BATCH_ROWS, Outcome
from lpm_stream.delivery.pool import DatabasePool
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.hub.message import Hub, Received
from lpm_stream.settings import Settings

_RECOVERY_MESSAGES = 500


class Worker:
    """Applies messages to company databases; every method may run in several threads at once."""

    def __init__(self, spec: FeedSpec, hub: Hub, store: ControlStore, settings: Settings, fence: int) -> None:
        self._spec = spec
        self._hub = hub
        self._store = store
        self._settings = settings
        self._fence = fence
        self._urls: dict[str, str] = {}
        self._pool = DatabasePool(self._open)

    def is_registered(self, company: str) -> bool:
        """Whether the company is served; the registry is asked again before the answer is no."""
        if company not in self._urls:
            self._urls = registry.database_urls(self._store, self._settings)
        return company in self._urls

    def serve(self, company: str, received: Sequence[Received], applied_before: int) -> Outcome:
        """Applies messages of one company.

        Args:
            company: its id.
            received: its messages, in order, at least one.
            applied_before: sequence number that its database is known to have applied.

        Raises:
            LpmStreamError: as `apply` does.
        """
        return Outcome(self._apply(company, received, applied_before), received[-1].sequence_number)

    def recover(self, state: Parked, applied_before: int) -> Outcome:
        """A parked company's own reader: the next of its messages from where it was parked.

        Raises:
            LpmStreamError: as `apply` and the hub do.
        """
        received = self._hub.receive(state.partition, state.sequence_number - 1, _RECOVERY_MESSAGES)
        here = (state.company, self._spec.name)
        through = state.sequence_number - 1
        mine: list[Received] = []
        for one in received:
            if sum(other.message.rows for other in mine) >= BATCH_ROWS:
                break
            through = one.sequence_number
            if (one.message.company, one.message.feed) == here:
                mine.append(one)
        return Outcome(self._apply(state.company, mine, applied_before) if mine else None, through)

    def close(self) -> None:
        """Closes the databases."""
        self._pool.close()

    def _apply(self, company: str, received: Sequence[Received], applied_before: int) -> Applied:
        with self._pool.borrow(company) as database:
            batch = Batch(received, self._fence, applied_before)
            return apply(self._spec, database, batch, self._quarantine)

    def _open(self, company: str) -> CompanyDatabase:
        return open_database(self._spec, company, self._urls[company])

    def _quarantine(self, refused: Sequence[quarantine.Refused]) -> None:
        with self._store.write() as connection:
            quarantine.add(connection, self._spec.name, refused)
