"""A Kafka broker and a PostgreSQL that die, refuse, or are not what they were; and what may happen beside any."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import sqlalchemy as sa
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from lpm_stream.control import registry
from lpm_stream.hub.message import Hub, Received
from torture.fault import Fault, Sizes, Struck
from torture.faults import doubles, kills, stores
from torture.faults.databases import filled, small_disk
from torture.faults.hub import are_lacking, publish_only, resync_the_lacking
from torture.pair import Pair
from torture.seen import Seen
from torture.world import World, wait_until

NAME = "kafka+postgresql"
_MESSAGES = 500
_EMBEDDED_ONLY = "clock jumps by hours"  # Kafka takes no messages of a clock that is an hour ahead


def kill_broker(pair: Pair, world: World, sizes: Sizes) -> Struck:
    """The broker is killed under traffic, and started again once the publisher has given up waiting for it."""
    noticed = "does not take messages"
    already = world.log.count(noticed)
    pair.broker.kill()
    try:
        status = world.status()
        world.wait_for_log(noticed, already)
        time.sleep(sizes.fault_seconds)
    finally:
        pair.broker.start()
    world.wait_for_delivery()
    return Struck(1, status.says("cannot be opened"), noticed, frozenset(world.companies))


def kill_postgresql(pair: Pair, world: World, sizes: Sizes) -> Struck:
    """The server with all databases is killed under traffic, and started again."""
    pair.postgresql.kill()
    try:
        wait_until(lambda: len(world.parked()) == len(world.companies), "not all are parked")
        status = world.status()
        time.sleep(sizes.fault_seconds)
    finally:
        pair.postgresql.start()
    wait_until(lambda: not world.parked(), "companies stay parked", lambda: str(world.parked()))
    return Struck(1, all(map(status.is_parked, world.companies)), "is parked", frozenset(world.companies))


def lock_table(pair: Pair, world: World, sizes: Sizes) -> Struck:
    """Somebody holds the lock of a company's table for seconds."""
    company = world.companies[0]
    with _connected(pair, _database(world, company)) as connection, connection.transaction():
        connection.execute("LOCK TABLE tdr IN ACCESS EXCLUSIVE MODE")
        status = _while_parked(world, company, sizes)
    return _parked(company, status)


def refuse_connections(pair: Pair, world: World, sizes: Sizes) -> Struck:
    """A company's database throws everybody out and lets nobody in."""
    company = world.companies[1]
    with _nobody_in(pair, _database(world, company)):
        status = _while_parked(world, company, sizes)
    return _parked(company, status)


def restore_database(pair: Pair, world: World, sizes: Sizes) -> Struck:
    """A company's database is restored from an older copy."""
    company = world.companies[2]
    name = _database(world, company)
    with _nobody_in(pair, name):
        pair.postgresql.server.run(f'CREATE DATABASE yesterday TEMPLATE "{name}"')
    wait_until(lambda: company not in world.parked(), "the company stays parked")
    time.sleep(sizes.fault_seconds)
    with _nobody_in(pair, name), _connected(pair, "postgres") as connection:
        wait_until(lambda: company in world.parked(), "the company is not parked")
        status = world.status()
        with connection.transaction():  # so that nobody finds none, and makes a new one
            connection.execute(f'ALTER DATABASE "{name}" RENAME TO lost'.encode())
            connection.execute(f'ALTER DATABASE yesterday RENAME TO "{name}"'.encode())
        connection.execute("DROP DATABASE lost")
    return _parked(company, status)


def fill_disk(pair: Pair, world: World, sizes: Sizes) -> Struck:
    """A company's database lies on a disk of its own (a tmpfs) that others fill up."""
    company = world.companies[3]
    with _moved_to_small_disk(pair, _database(world, company)) as disk:
        wait_until(lambda: company not in world.parked(), "the company stays parked")
        time.sleep(sizes.calm_seconds)
        world.since = world.latencies()  # moving it there was no fault
        with filled(disk):
            status = _while_parked(world, company, sizes)
        wait_until(lambda: company not in world.parked(), "the company stays parked")
    return replace(_parked(company, status), in_status=status.is_parked(company, "No space left"))


def expire_messages(pair: Pair, world: World, sizes: Sizes) -> Struck:
    """The broker deletes messages that nobody has read, and the companies that lack something are resynced."""
    behind = publish_only(world, sizes)
    hub = world.stream.hub
    companies = {
        one.message.company
        for partition, through in behind.items()
        for one in _all_behind(hub, partition, through)
    }
    topic = world.stream.settings.hub_url.rpartition("/")[2]
    admin = AdminClient({"bootstrap.servers": f"localhost:{pair.broker.port}"})
    ends = [TopicPartition(topic, partition, hub.end(partition)) for partition in behind]
    for done in admin.delete_records(ends).values():
        done.result(30)
    status = resync_the_lacking(world, companies)
    return Struck(1, are_lacking(status, companies), "no longer keeps", frozenset(companies))


def _all_behind(hub: Hub, partition: int, through: int) -> Iterator[Received]:
    while received := hub.receive(partition, through, _MESSAGES):
        yield from received
        through = received[-1].sequence_number


def _while_parked(world: World, company: str, sizes: Sizes) -> Seen:
    """Waits until the company is parked, and as long as the fault is to last; returns the status."""
    wait_until(lambda: company in world.parked(), "the company is not parked")
    status = world.status()
    time.sleep(sizes.fault_seconds)
    return status


def _parked(company: str, status: Seen) -> Struck:
    return Struck(1, status.is_parked(company), f"{company}' is parked", frozenset({company}))


def _database(world: World, company: str) -> str:
    """The name of a company's database."""
    url = registry.database_urls(world.stream.store, world.stream.settings)[company]
    return str(sa.make_url(url).database)


@contextmanager
def _moved_to_small_disk(pair: Pair, database: str) -> Iterator[Path]:
    """Moves a database to a tablespace on a small disk, and back."""
    server = pair.postgresql.server
    [(size,)] = server.run(f"SELECT pg_database_size('{database}')")
    [(data,)] = server.run("SHOW data_directory")
    disk = Path(tempfile.mkdtemp(prefix="lpm_disk_"))  # where the server's user can reach it
    with small_disk(disk, size):
        place = disk / "tablespace"
        place.mkdir()
        shutil.chown(place, Path(data).stat().st_uid, Path(data).stat().st_gid)
        disk.chmod(0o755)
        server.run(f"CREATE TABLESPACE small LOCATION '{place}'")
        with _nobody_in(pair, database):
            server.run(f'ALTER DATABASE "{database}" SET TABLESPACE small')
        yield disk
        with _nobody_in(pair, database):
            server.run(f'ALTER DATABASE "{database}" SET TABLESPACE pg_default')
        server.run("DROP TABLESPACE small")
    disk.rmdir()


@contextmanager
def _connected(pair: Pair, database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(
        host=pair.postgresql.server.host, user="postgres", dbname=database, autocommit=True
    ) as connection:
        yield connection


@contextmanager
def _nobody_in(pair: Pair, database: str) -> Iterator[None]:
    """A database without connections."""
    server = pair.postgresql.server
    server.run(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
    try:
        server.run(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'")
        yield
    finally:
        server.run(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')


_OWN: Mapping[str, Callable[[Pair, World, Sizes], Struck]] = {
    "broker killed and restarted": kill_broker,
    "server killed and restarted": kill_postgresql,
    "company table locked": lock_table,
    "company database refuses connections": refuse_connections,
    "company database restored from an older copy": restore_database,
    "company database's disk full": fill_disk,
    "hub messages expired, companies resynced": expire_messages,
}
_ANYWHERE = (*stores.FAULTS, *doubles.FAULTS, *kills.FAULTS)
_SHARED = tuple(one for one in _ANYWHERE if one.name != _EMBEDDED_ONLY)
_IN_SHORT = ("broker killed and restarted", "kill -9: relay")
NAMES = tuple(f"{NAME}: {name}" for name in (*_OWN, *(fault.name for fault in _SHARED)))
_NAMES_IN_SHORT = frozenset(f"{NAME}: {name}" for name in _IN_SHORT)


def faults(pair: Pair) -> Sequence[Fault]:
    """Those of the two servers, and those that may happen beside any."""
    own: list[Callable[[World, Sizes], Struck]] = [partial(strike, pair) for strike in _OWN.values()]
    strikes = [*own, *(fault.strike for fault in _SHARED)]
    return [
        Fault(name, strike, in_short=name in _NAMES_IN_SHORT) for name, strike in zip(NAMES, strikes, strict=True)
    ]
