"""A hub that has lost what was published: a damaged message, and a file that cannot be read."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from lpm_stream.control import parking, progress
from torture.fault import Fault, Sizes, Struck
from torture.seen import Seen
from torture.world import World, wait_until

_MESSAGES = 3


def damage_messages(world: World, sizes: Sizes) -> Struck:
    """Some messages on disk are not what was written, before anybody has read them."""
    behind = publish_only(world, sizes)
    world.stream.hub.close()  # nobody else has its files open then
    partition, through = next(iter(behind.items()))
    with closing(sqlite3.connect(_file(world, partition))) as connection, connection:
        waiting = connection.execute(
            "SELECT sequence_number, partition_key FROM messages WHERE sequence_number > ?", (through,)
        ).fetchall()
        damaged = world.chance.sample(waiting, min(_MESSAGES, len(waiting)))
        for number, _ in damaged:
            connection.execute("UPDATE messages SET body = X'00' WHERE sequence_number = ?", (number,))
    companies = {company for _, company in damaged}
    status = resync_the_lacking(world, companies)
    return Struck(len(damaged), are_lacking(status, companies), "is damaged", frozenset(companies))


def break_file(world: World, sizes: Sizes) -> Struck:
    """A partition's file cannot be read: it is moved away, and the companies that lack something resynced."""
    behind = publish_only(world, sizes)
    world.stream.hub.close()  # nobody else has its files open then
    partition = next(iter(behind))
    path = _file(world, partition)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        waiting = connection.execute(
            "SELECT DISTINCT partition_key FROM messages WHERE sequence_number > ?", (behind[partition],)
        )
        companies = {company for (company,) in waiting}
    world.forget()
    with path.open("r+b") as file:
        file.write(b"\xff" * 4096)
    already = world.log.count("if the file is damaged")
    world.relay = world.start("relay")
    world.wait_for_log("if the file is damaged", already)
    status = world.status()
    world.stop_relay()
    for suffix in ("", "-wal", "-shm"):
        moved = Path(f"{path}{suffix}")
        if moved.exists():
            moved.rename(world.home / f"broken {moved.name}")
    resync_the_lacking(world, companies)
    return Struck(1, status.says("if the file is damaged"), "if the file is damaged", frozenset(companies))


def publish_only(world: World, sizes: Sizes) -> dict[int, int]:
    """Lets messages wait in the hub; returns each partition behind which some do."""
    world.stop_relay()
    time.sleep(sizes.fault_seconds / 2)
    world.run("publish")
    through = progress.read_checkpoints(world.stream.store, world.stream.spec.name)
    ends = {partition: world.stream.hub.end(partition) for partition in world.stream.hub.partitions()}
    return {
        partition: through.get(partition, 0) for partition, end in ends.items() if end > through.get(partition, 0)
    }


def resync_the_lacking(world: World, companies: set[str]) -> Seen:
    """Starts the relay, and does for each company what its status says; returns that status."""
    world.start_relay()
    wait_until(lambda: companies <= _lacking(world), "what was lost is not noticed", lambda: str(world.parked()))
    status = world.status()
    for company in sorted(companies):
        done = world.run("resync", "--company", company)
        if done.returncode:
            raise RuntimeError(f"resync failed: {done.stderr}")
    for company in companies:  # instead of waiting for the longest pause between tries
        parking.try_now(world.stream.store, world.stream.spec.name, company)
    return status


def are_lacking(status: Seen, companies: set[str]) -> bool:
    """Whether each of the companies was shown to lack what nobody but the table has."""
    return all(status.is_parked(one, "only the table has them still") for one in companies)


def _lacking(world: World) -> set[str]:
    return {company for company, state in world.parked().items() if state.kind == "gap"}


def _file(world: World, partition: int) -> Path:
    return world.home / "hub" / f"{partition}.db"


FAULTS = (
    Fault("hub messages damaged, companies resynced", damage_messages),
    Fault("hub file unreadable, companies resynced", break_file, in_short=False),
)
