"""Who takes a company in, or drops what it has: one at a time."""

from contextlib import AbstractContextManager

from lpm_stream.control import leases
from lpm_stream.control.leases import Lease
from lpm_stream.control.store import ControlStore


def alone(store: ControlStore, company: str) -> AbstractContextManager[Lease]:
    """Keeps others from onboarding the same company, however they spell it, and from dropping its data.

    Raises:
        LpmStreamError: if somebody is at it.
    """
    name = leases.lease_name("onboard", "companies", company.casefold())
    doing = f"company {company!r} is being onboarded, or its data dropped,"
    return leases.alone(store, name, leases.worker_name("onboard"), doing)
