"""Company databases that are locked, full, or not what they were."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lpm_stream.control import tables
from torture.fault import Fault, Sizes, Struck
from torture.seen import Seen
from torture.world import World, locked, wait_until

_SPARE_BYTES = 100_000_000  # of the disk that gets full


def lock(world: World, sizes: Sizes) -> Struck:
    """Another program holds the lock of a company's database for seconds."""
    company = world.companies[0]
    with locked(world.database(company)):
        status = _parked_for(world, company, sizes)
    return _parked(company, status, "is locked")


def fill_disk(world: World, sizes: Sizes) -> Struck:
    """A company's database is on a disk of its own (a tmpfs) that others fill up."""
    company = world.companies[1]
    with _moved_to_small_disk(world, company) as disk:
        time.sleep(sizes.calm_seconds)
        world.since = world.latencies()  # moving it there was no fault
        with filled(disk):
            status = _parked_for(world, company, sizes)
        wait_until(lambda: company not in world.parked(), "the company stays parked")
    return _parked(company, status, "full")


def restore_database(world: World, sizes: Sizes) -> Struck:
    """A company's database is deleted, and restored from an older copy."""
    company = world.companies[2]
    path, copy = world.database(company), world.home / "yesterday.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    time.sleep(sizes.fault_seconds)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, path)
    with world.halted_when(lambda: company in world.parked(), "nobody notices"):  # the hub has what it lacks
        measured = world.known_latencies()
        status = world.status()
    return replace(_parked(company, status), measured=measured)


@contextmanager
def small_disk(place: Path, held_bytes: int) -> Iterator[None]:
    """A disk of its own (a tmpfs) for something of that size, and somewhat more."""
    size = 2 * held_bytes + _SPARE_BYTES
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """A disk without room for more."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(65_536))
    yield
    path.unlink()


@contextmanager
def _moved_to_small_disk(world: World, company: str) -> Iterator[Path]:
    """Moves a company's database to a small disk, and back."""
    disk = world.home / "small"
    disk.mkdir()
    home = world.database(company)
    with small_disk(disk, home.stat().st_size):
        _move(world, company, home, disk / home.name)
        yield disk
        _move(world, company, disk / home.name, home)


def _move(world: World, company: str, old: Path, new: Path) -> None:
    """Moves a database while nobody writes to it."""
    world.stop_relay()
    for path in old.parent.glob(f"{old.name}*"):
        shutil.move(path, new.parent / path.name)
    with world.stream.store.write() as connection:
        moved = tables.companies.update().where(tables.companies.c.company == company)
        connection.execute(moved.values(database_url=f"sqlite:///{new}"))
    world.start_relay()


def _parked_for(world: World, company: str, sizes: Sizes) -> Seen:
    """Waits until the company is parked, and as long as the fault is to last; returns the status."""
    wait_until(lambda: company in world.parked(), "the company is not parked")
    status = world.status()
    time.sleep(sizes.fault_seconds)
    return status


def _parked(company: str, status: Seen, reason: str = "") -> Struck:
    return Struck(1, status.is_parked(company, reason), f"{company}' is parked", frozenset({company}))


FAULTS = (
    Fault("company database locked", lock),
    Fault("company database's disk full", fill_disk),
    Fault("company database restored from an older copy", restore_database),
)
