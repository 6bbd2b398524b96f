"""Onboarding: everything that makes a company a customer, in steps that can be done again.

Nothing of a company is registered before its database has answered and is its own. From then on the stream keeps
what comes, and a run that was stopped, or failed, is simply repeated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from deltalake import DeltaTable

from lpm_stream.checks.result import Result
from lpm_stream.checks.run import run_checks
from lpm_stream.control import backfills, entries, leases, parking, registry
from lpm_stream.control.company import Company
from lpm_stream.control.company_lease import alone
from lpm_stream.control.registry_file import unfit
from lpm_stream.control.store import ControlStore
from lpm_stream.database_url import shown
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.database import open_database
from lpm_stream.delivery.entitled import EntitlementsChangedError
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.stream import Stream


class OnboardingError(LpmStreamError):
    """A step of an onboarding has failed: the message says which, why, and what to do."""


@dataclass(frozen=True)
class Order:
    """What is to be onboarded, and with what.

    Attributes:
        company: as it is to be registered.
        streams: every feed, opened, all with the same control store.
        add_partition: makes the company a partition in Dagster; returns what it did.
        tell: told of what was done, one line each.
        go_on: asked again and again during what takes long; False gives up.
        progress: told how many rows of how many are loaded.
    """

    company: Company
    streams: Sequence[Stream]
    add_partition: Callable[[Stream, str], str]
    tell: Callable[[str, str], None]
    go_on: Callable[[], bool]
    progress: Callable[[int, int], None]

    @property
    def received(self) -> list[Stream]:
        """The feeds that the company receives."""
        wanted = self.company.feeds
        return [stream for stream in self.streams if not wanted or stream.spec.name in wanted]

    @property
    def store(self) -> ControlStore:
        """The control store."""
        return self.streams[0].store

    def place(self, stream: Stream) -> str:
        """Where the company's database is."""
        return registry.database_place(self.company.id, self.company.database, stream.settings)


@dataclass(frozen=True)
class _Step:
    """A step.

    Attributes:
        name: for people.
        plan: what it is going to do.
        run: does it for one feed; returns what it did.
        remedy: what to do if it fails.
    """

    name: str
    plan: Callable[[Order, Stream], str]
    run: Callable[[Order, Stream, int], str]
    remedy: str


def plan(order: Order) -> Iterator[tuple[str, str]]:
    """What an onboarding would do, step by step; nothing is touched.

    Raises:
        LpmStreamError: if it could not begin.
    """
    _require_fit(order)
    for step in _STEPS:
        for stream in order.received:
            yield step.name, step.plan(order, stream)


def onboard(order: Order) -> list[Result]:
    """Onboards a company, or goes on where an earlier onboarding has ended; returns its first checks.

    Raises:
        OnboardingError: if a step fails.
        LpmStreamError: if it cannot begin: what was said about the company is wrong, it is onboarded already, or
            somebody else is at it.
    """
    with alone(order.store, order.company.id):
        _require_fit(order)
        generation = entries.generation_for(order.store, order.company)
        for step in _STEPS:
            for stream in order.received:
                try:
                    generation = _run(step, order, stream, generation)
                except LpmStreamError as error:
                    raise OnboardingError(
                        f"onboarding of company {order.company.id!r} has stopped at step '{step.name}': {error}. "
                        f"{step.remedy}"
                    ) from error
        entries.finish_onboarding(order.store, order.company.id)
    begun = (stream for stream in order.received if DeltaTable.is_deltatable(stream.table))
    return [result for stream in begun for result in run_checks(stream, [order.company.id])]


def _run(step: _Step, order: Order, stream: Stream, generation: int) -> int:
    """Runs a step; the generation to go on with."""
    try:
        order.tell(step.name, step.run(order, stream, generation))
    except EntitlementsChangedError as error:
        if step.run is not _make_database:
            raise
        generation = error.stored + 1  # an earlier try, for other groups, was killed before these were registered
        order.tell(step.name, step.run(order, stream, generation))
    return generation


def _require_fit(order: Order) -> None:
    company = order.company
    if wrong := list(unfit(company, {stream.spec.name: stream.spec for stream in order.streams})):
        raise LpmStreamError(f"company {company.id!r}: {'; '.join(wrong)}")
    if company.state != "active":
        raise LpmStreamError(f"company {company.id!r}: a company is onboarded as active; pause it afterwards")
    with order.store.read() as connection:
        entries.require_new(connection, company.id)


def _make_database(order: Order, stream: Stream, generation: int) -> str:
    company, place = order.company, order.place(stream)
    entitlement = Entitlement(company.groups, generation)
    opened = closing(open_database(stream.spec, company.id, place, entitlement))
    with opened as database, database.transaction() as transaction:
        transaction.watermark()
    return f"{shown(place)} answers; table {stream.spec.name} takes rows of {company.id!r} only"


def _register(order: Order, stream: Stream, generation: int) -> str:
    if stream is order.received[0]:
        with order.store.write() as connection:
            entries.add(connection, order.company, generation)
    return f"its changes are published from now on, with columns {', '.join(order.company.groups)}"


def _add_partition(order: Order, stream: Stream, generation: int) -> str:  # noqa: ARG001 - as the other steps
    return order.add_partition(stream, order.company.id)


def _load_history(order: Order, stream: Stream, generation: int) -> str:
    company, feed = order.company.id, stream.spec.name
    if not DeltaTable.is_deltatable(stream.table):
        return f"table {stream.table} does not exist yet: there is none"
    entry, last = entries.read(stream.store, company), backfills.read(stream.store, feed).get(company)
    newest = last is not None and last.started_at > entry.registered_at and last.generation >= generation
    if last and newest and last.outcome == "loaded":
        return f"{last.total_rows:,} rows were loaded before"
    done = backfill(stream, company, rebuild=False, go_on=order.go_on, tell=order.progress)
    refused = f"; {done.refused:,} more are in quarantine" if done.refused else ""
    return f"{done.rows:,} rows loaded, as of version {done.version}{refused}"


def _join(order: Order, stream: Stream, generation: int) -> str:  # noqa: ARG001
    feed = stream.spec.name
    parking.try_now(stream.store, feed, order.company.id)
    holder = leases.at_work(leases.holders(stream.store), "deliver", feed)
    if holder is None:  # no sign that something is wrong: Dagster's sensor delivers in ticks, with gaps between
        return "delivered with the next tick of Dagster's sensor, or by lpm-stream relay once it runs"
    return f"delivered by {holder}"


_AGAIN = "Then do the same again: it goes on from there"
_STEPS = (
    _Step(
        "database",
        lambda order, stream: (
            f"open {shown(order.place(stream))}, create it where allowed, make {stream.spec.name}"
        ),
        _make_database,
        "Nothing was registered. Mend the database, or name another; then do the same again",
    ),
    _Step(
        "registry",
        lambda order, stream: f"register {order.company.id!r} for {stream.spec.name}",
        _register,
        "Nothing was registered",
    ),
    _Step(
        "partition",
        lambda order, stream: (
            f"add the partition of {order.company.id!r} to Dagster's {stream.spec.company_column}"
        ),
        _add_partition,
        f"It is registered, and streams. See that Dagster's storage answers. {_AGAIN}",
    ),
    _Step(
        "history",
        lambda _order, stream: f"load its rows from {stream.table}, while the stream is held for it alone",
        _load_history,
        f"It is registered, and lacks what came before. {_AGAIN}",
    ),
    _Step(
        "stream",
        lambda order, stream: (
            f"let {order.company.id!r} join the stream of {stream.spec.name}, run its first checks"
        ),
        _join,
        _AGAIN,
    ),
)


def failed(results: Sequence[Result]) -> Mapping[str, str]:
    """The checks that people have to act on: name to description."""
    return {result.name: result.description for result in results if result.bad}
