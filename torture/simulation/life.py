"""A stream of three companies that crashes again and again, and is compared with its table after each crash."""

import atexit
import functools
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from lpm_stream.control import leases, parking, progress, quarantine, shares, tables
from lpm_stream.control.registry import database_urls, register
from lpm_stream.control.store import ControlStore
from lpm_stream.delivery import backfill as backfill_module
from lpm_stream.delivery import drain as deliver_drain
from lpm_stream.delivery import lanes, worker
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.replay import replay
from lpm_stream.errors import LpmStreamError
from lpm_stream.hub.local import LocalHub
from lpm_stream.publish import pack
from lpm_stream.settings import Settings
from lpm_stream.source.delta import DeltaSource
from lpm_stream.source.snapshot import Snapshot
from lpm_stream.stream import Stream
from lpm_stream_tests.delivery.faults import BadHub, Bomb, Crash, put_steps_between, step_after
from lpm_stream_tests.example import SPEC, create_table, deliver, publish, source_rows, undelivered
from torture.simulation.commits import COMPANIES, commit, mend, rows
from torture.simulation.databases import Databases
from torture.simulation.inline import InlineSlots

_SHM = Path("/dev/shm")  # in memory, where there is such a thing: durability is not what is tried here
_ROUNDS = 12  # of publish and deliver, until everything has arrived
_ACTS = ("publish", "deliver", "deliver", "backfill", "rebuild", "replay")


class NotEqualError(AssertionError):
    """A database is not what the table is."""


@dataclass(frozen=True)
class Point:
    """A crash.

    Attributes:
        act: what was at work.
        where: the boundary at which it crashed.
    """

    act: str
    where: str


@contextmanager
def small_steps(bomb: Bomb, databases: Databases) -> Iterator[None]:
    """Everything in small pieces, in one thread, with a step at every boundary, and leases that hold nobody up."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pack, "_CHUNK_ROWS", 2)
    patch.setattr(pack, "_BUFFERED_ROWS", 5)
    for module in (lanes, worker):
        patch.setattr(module, "BATCH_ROWS", 2)
    patch.setattr(worker, "_RECOVERY_MESSAGES", 3)
    patch.setattr(backfill_module, "_BATCH_ROWS", 2)
    patch.setattr(deliver_drain, "_READ_MESSAGES", 2)
    patch.setattr(deliver_drain, "_SAVE_SECONDS", 0.0)
    patch.setattr(deliver_drain, "Slots", InlineSlots)
    for module in (leases, shares):
        patch.setattr(module, "TTL", timedelta(0))
    patch.setattr(DeltaSource, "changes", step_after(bomb, DeltaSource.changes, "reading the table"))
    patch.setattr(Snapshot, "count", step_after(bomb, Snapshot.count, "pinning the table"))
    put_steps_between(bomb, patch, databases.database, databases.transaction, databases.within_merge)
    try:
        yield
    finally:
        patch.undo()


@functools.cache
def _new_control_store() -> Path:
    """Making one takes longer than all that is done with it."""
    path = Path(tempfile.mkdtemp(prefix="lpm_stream_")) / "control.db"
    atexit.register(shutil.rmtree, path.parent)
    ControlStore(f"sqlite:///{path}").close()
    return path


class Life:
    """One stream, from an empty table to its last crash."""

    def __init__(self, chance: random.Random, bomb: Bomb, databases: Databases) -> None:
        self._chance = chance
        self._bomb = bomb
        self._home = Path(tempfile.mkdtemp(prefix="lpm_stream_", dir=_SHM if _SHM.is_dir() else None))
        settings = Settings.load(self._home).model_copy(
            update={"poll_seconds": 0.0005, "hub_partitions": 2, "slots": 2}
        )
        local = LocalHub(self._home / "hub", settings.hub_partitions, settings.hub_retention_hours)
        self._hub = BadHub(local, bomb, chance)
        shutil.copy(_new_control_store(), self._home / "control.db")
        self._stream = Stream(SPEC, settings, ControlStore(settings.control_url), self._hub)
        for number, company in enumerate(COMPANIES):
            register(self._stream.store, company, databases.url(self._home, number))
        create_table(self._stream.table, rows(chance, ["k0", "k1", "k2"]))

    def close(self) -> None:
        """Removes everything."""
        self._stream.store.close()
        self._hub.close()
        shutil.rmtree(self._home)

    def crash(self, longest: dict[str, int]) -> Point | None:
        """Commits, crashes something on the way, goes on, and compares.

        Args:
            longest: number of steps that each act was seen to take, kept up to date.

        Returns:
            The crash, None if the act was over before it came to it.

        Raises:
            NotEqualError: if something is lost or doubled.
        """
        for _ in range(self._chance.randint(1, 3)):
            commit(self._chance, self._stream.table)
        act = self._chance.choice(_ACTS)
        if act != "publish":
            publish(self._stream)
        self._bomb.set(self._chance.randint(0, longest.get(act, 10)))
        with suppress(Crash):
            self._act(act)
        where = self._bomb.crashed_at
        longest[act] = max(longest.get(act, 0), self._bomb.steps)
        self._bomb.set(None)
        self._settle()
        return None if where is None else Point(act, where)

    def _act(self, act: str) -> None:
        company = self._chance.choice(COMPANIES)
        if act == "publish":
            publish(self._stream)
        elif act == "deliver":
            deliver(self._stream)
        elif act == "replay":
            deliver(self._stream)
            self._replay_all()
        else:
            backfill(
                self._stream,
                company,
                rebuild=act == "rebuild",
                go_on=lambda: True,
                tell=lambda _rows, _total: None,
            )

    def _replay_all(self) -> None:
        for company in COMPANIES:
            try:
                replay(self._stream, company)
            except LpmStreamError as error:
                if "run it again" not in str(error) and "held" not in str(error):
                    raise

    def _settle(self) -> None:
        """Without further crashes everything arrives, and what was refused is delivered once it is mended."""
        mend(self._stream.table)
        for _ in range(_ROUNDS):
            publish(self._stream)
            deliver(self._stream)
            self._try_parked_now()
            if undelivered(self._stream) == 0 and not parking.read_parked(self._stream.store, SPEC.name):
                break
        self._replay_all()
        self._compare()

    def _compare(self) -> None:
        parked = parking.read_parked(self._stream.store, SPEC.name)
        waiting = undelivered(self._stream)
        refused = quarantine.counts(self._stream.store, SPEC.name)
        if parked or waiting or refused:
            raise NotEqualError(f"parked: {parked}; messages in the hub: {waiting}; in quarantine: {refused}")
        source = source_rows(self._stream.table).select("id", "customer", "amount", "note").rows()
        known = progress.read_deliveries(self._stream.store, SPEC.name)
        for company, url in database_urls(self._stream.store, self._stream.settings).items():
            wanted = {row for row in source if row[1] == company}
            if company not in known and not wanted:
                continue
            found = self._stored(url)
            if sorted(found) != sorted(wanted):
                raise NotEqualError(
                    f"company {company!r} lacks {wanted - {*found}}, has too much {set(found) - wanted}"
                )

    @staticmethod
    def _stored(url: str) -> list[tuple[object, ...]]:
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                return [
                    tuple(row)
                    for row in connection.exec_driver_sql("SELECT id, customer, amount, note FROM orders")
                ]
        finally:
            engine.dispose()

    def _try_parked_now(self) -> None:
        past = datetime.now(UTC) - timedelta(seconds=1)
        with self._stream.store.write() as connection:
            connection.execute(tables.parked.update().values(next_try_at=past))
