"""What the assets do when somebody materialises or observes them: catch up, beside sensors and relays."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import dagster as dg

from lpm_stream.components.events import HUB_VERSION, company_metadata, hub_metadata, source_metadata
from lpm_stream.components.partitions import company_of
from lpm_stream.components.source_table import look
from lpm_stream.components.tally import Tally
from lpm_stream.control import leases, ledger, parking, progress, registry
from lpm_stream.control.latency import Latencies
from lpm_stream.delivery.drain import Delivery
from lpm_stream.errors import LeaseLostError, LpmStreamError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.publish.drain import Published
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream

_LOOK_SECONDS = 0.3  # between looks at what another worker has done
_PATIENCE_SECONDS = 600.0  # with another worker; tens of millions of rows take less


class _Done(Protocol):
    standby: bool


_D = TypeVar("_D", bound=_Done)


def observe_source(spec: FeedSpec) -> dg.ObserveResult:
    """Looks at the source table.

    Raises:
        SourceError: if there is none.
    """
    settings = Settings.load()
    return dg.ObserveResult(metadata=source_metadata(look(spec, settings.table_location(spec.source_table))))


def publish_now(spec: FeedSpec) -> dg.MaterializeResult[None]:
    """Publishes until the commit that is the table's newest now is in the hub, or sees another worker do it."""
    settings = Settings.load()
    with open_stream(settings, spec) as stream:
        newest = look(spec, stream.table).version

        def published() -> int:
            cursor = progress.read_cursor(stream.store, spec.name)
            return cursor.version if cursor else -1

        def drain() -> Published:
            drain = stream.publisher().drain
            return drain(poll_seconds=settings.poll_seconds, go_on=lambda: published() < newest)

        done = _ours_or_theirs(stream, "publish", drain, lambda: published() >= newest)
        tally = Tally().plus(done) if done else Tally()
        return dg.MaterializeResult(metadata=hub_metadata(tally, published(), 0), data_version=HUB_VERSION)


def deliver_now(spec: FeedSpec, key: str) -> dg.MaterializeResult[None]:
    """Delivers until a company has all that the hub holds for it now, or sees another worker do it.

    The drain serves all companies: there is one lease for them, and those that are caught up cost nothing.

    Args:
        spec: the feed.
        key: the company's partition key.

    Raises:
        LpmStreamError: if the company is parked or not registered, or the hub cannot be read.
    """
    begun = datetime.now(UTC)
    with open_stream(Settings.load(), spec) as stream:
        company = company_of(registry.registered(stream.store, stream.spec.name), key)
        parking.try_now(stream.store, spec.name, company)
        before = ledger.read(stream.store, spec.name, begun).get(company, Latencies())
        ends = {partition: stream.hub.end(partition) for partition in stream.hub.partitions()}

        def is_delivered() -> bool:
            state = parking.read_parked(stream.store, spec.name).get(company)
            if state is not None and state.next_try_at <= datetime.now(UTC):
                return False  # its turn comes
            through = progress.read_checkpoints(stream.store, spec.name)
            return all(through.get(partition, 0) >= end for partition, end in ends.items())

        def drain() -> Delivery:
            return stream.deliverer().drain(go_on=lambda: not is_delivered(), until_caught_up=True)

        done = _ours_or_theirs(stream, "deliver", drain, is_delivered)
        _require_not_parked(stream, company)
        if done is not None and not is_delivered():
            raise LpmStreamError(f"not all that the hub holds could be delivered: {'; '.join(done.problems)}")
        received = ledger.read(stream.store, spec.name, begun).get(company, Latencies()).since(before)
        newest = progress.read_deliveries(stream.store, spec.name).get(company)
    return dg.MaterializeResult(metadata=company_metadata(received.changes, received, newest))


def _ours_or_theirs(
    stream: Stream, role: leases.Role, drain: Callable[[], _D], is_done: Callable[[], bool]
) -> _D | None:
    """Runs a drain; while another worker holds its lease, waits until that one has done what is wanted.

    Returns:
        What the drain did, or None if another worker did it.

    Raises:
        LpmStreamError: if the other worker does not do it.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    lease = leases.lease_name(role, stream.spec.name)
    while True:
        try:
            done = drain()
        except LeaseLostError:
            done = None
        if done is not None and not done.standby:
            return done
        while (holder := leases.holders(stream.store).get(lease)) is not None:
            if is_done():
                return None
            if time.monotonic() > deadline:
                raise LpmStreamError(
                    f"{holder} has not caught up within {_PATIENCE_SECONDS:g} s; lpm-stream status shows more"
                )
            time.sleep(_LOOK_SECONDS)


def _require_not_parked(stream: Stream, company: str) -> None:
    parked = parking.read_parked(stream.store, stream.spec.name).get(company)
    if parked is not None:
        raise LpmStreamError(
            f"company {company!r} is parked since {parked.since:%Y-%m-%dT%H:%M:%SZ}: {parked.reason} "
            f"(next try at {parked.next_try_at:%Y-%m-%dT%H:%M:%SZ})"
        )
