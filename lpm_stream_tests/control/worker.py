"""Processes for the tests of the control store."""

import sys
import time

from lpm_stream.control import audit, leases, registry
from lpm_stream.control.store import ControlStore


def open_and_register(url: str, company: str) -> None:
    """Opens a store that may not exist yet, and registers a company and one that others register too."""
    store = ControlStore(url)
    registry.register(store, company)
    registry.register(store, "everybody's")
    store.close()


def compete(url: str, seconds: str) -> None:
    """Takes a lease again and again, and writes down from when to when it was held, and its fence."""
    store = ControlStore(url)
    holder = leases.worker_name("work")
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        lease = leases.acquire(store, "work", holder)
        if lease is None:
            time.sleep(0.001)
            continue
        begun = time.monotonic_ns()
        time.sleep(0.002)
        sys.stdout.write(f"{begun} {time.monotonic_ns()} {lease.fence}\n")
        leases.release(store, lease)
    store.close()


def record(url: str, name: str) -> None:
    """Writes entries of the audit, as many as others do at the same time."""
    store = ControlStore(url)
    for number in range(20):
        with store.write() as connection:
            audit.record(connection, "backfill", name, {"number": number})
    store.close()


if __name__ == "__main__":
    {"open": open_and_register, "compete": compete, "record": record}[sys.argv[1]](*sys.argv[2:])
