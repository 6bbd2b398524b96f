"""Who takes a company in, or drops what it has: one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from lpm_stream.control import leases
from lpm_stream.control.leases import Lease
from lpm_stream.control.store import ControlStore
from lpm_stream.errors import LpmStreamError


@contextmanager
def alone(store: ControlStore, company: str) -> Iterator[Lease]:
    """Keeps others from onboarding the same company, however they spell it, and from dropping its data.

    Raises:
        LpmStreamError: if somebody is at it.
    """
    name = leases.lease_name("onboard", "companies", company.casefold())
    lease = leases.acquire(store, name, leases.worker_name("onboard"))
    if lease is None:
        holder = leases.holders(store).get(name, "another worker")
        raise LpmStreamError(
            f"company {company!r} is being onboarded, or its data dropped, by {holder} already; wait for that to "
            f"end"
        )
    try:
        with leases.kept(store, lease):
            yield lease
    finally:
        leases.release(store, lease)
