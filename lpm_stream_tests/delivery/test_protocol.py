"""The delivery protocol against everything that may happen to it (Hypothesis decides what, and in which order)."""

import functools
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lpm_stream.control import leases, parking, progress, quarantine, shares, tables
from lpm_stream.control.registry import database_urls, register
from lpm_stream.control.store import ControlStore
from lpm_stream.delivery import backfill as backfill_module
from lpm_stream.delivery import drain as deliver_drain
from lpm_stream.delivery import lanes, worker
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.sqlite import SqliteDatabase
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LeaseLostError, LpmStreamError
from lpm_stream.hub.local import LocalHub
from lpm_stream.hub.message import Message, Received
from lpm_stream.publish import pack
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream
from lpm_stream_tests.delivery.databases import query
from lpm_stream_tests.delivery.faults import BadHub, Bomb, Crash, put_steps_between
from lpm_stream_tests.example import SPEC, create_table, deliver, orders, publish, source_rows, undelivered

COMPANIES = ("A", "B", "it's C")
KEYS = [f"k{number}" for number in range(12)]
SHM = Path("/dev/shm")  # in memory, where there is such a thing: durability is not what is tested here
STEPS = st.integers(0, 40)
SEEDS = st.integers(0, 2**16)
NAMES = st.sampled_from(("A", "A", *COMPANIES))  # one gets most: its commits are cut into chunks
AMOUNTS = st.integers(0, 9)
CHUNK_ROWS = st.sampled_from([1, 2, 1, 3])
Drains = tuple[Callable[[Stream], object], ...]
DRAINS: st.SearchStrategy[Drains] = st.sampled_from(
    [(publish,), (deliver,), (publish, deliver), (deliver, deliver), (publish, publish)]
)

KINDS = (
    "insert",
    "update",
    "move",
    "delete",
    "change keys",
    "replace rows",
    "overwrite a company",
    "overwrite everything",
    "merge",
    "restore",
    "compact",
)


@dataclass(frozen=True)
class Row:
    company: str
    amount: int
    note: str


Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Commit:
    """What a commit does, of which each kind takes what it needs."""

    kind: str
    rows: Rows
    keys: frozenset[str]
    company: str
    amount: int


ROWS = st.dictionaries(
    st.sampled_from(KEYS), st.builds(Row, NAMES, AMOUNTS, st.sampled_from("xyz")), min_size=3, max_size=9
)
SOME_KEYS = st.frozensets(st.sampled_from(KEYS), min_size=2, max_size=8)
COMMITS = st.builds(Commit, st.sampled_from(KINDS), ROWS, SOME_KEYS, NAMES, AMOUNTS)


@functools.cache
def control_store_template() -> Path:
    """A control store with its companies: making one takes longer than all that an example does with it."""
    path = Path(tempfile.mkdtemp(prefix="lpm_stream_")) / "control.db"
    with closing(ControlStore(f"sqlite:///{path}")) as store:
        for company in COMPANIES:
            register(store, company)
    return path


def frame(rows: Rows) -> pl.DataFrame:
    base = orders(list(rows), [row.company for row in rows.values()])
    return base.with_columns(
        amount=pl.Series([row.amount for row in rows.values()], dtype=pl.Int64),
        note=pl.Series([row.note for row in rows.values()], dtype=pl.String),
    )


def listed(keys: Iterable[str]) -> str:
    return ", ".join(f"'{key}'" for key in sorted(keys)) or "''"


class Protocol(RuleBasedStateMachine):
    """Commits, publishes, delivers, and lets everything go wrong.

    Threads make what happens differ from run to run; neither which rules there are nor what they draw may depend
    on it.

    `rows` is what the source table should hold, and `rows_at` what it held at each of its versions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(pack, "_CHUNK_ROWS", 2)
        self.patch.setattr(pack, "_BUFFERED_ROWS", 5)
        for module in (lanes, worker):
            self.patch.setattr(module, "BATCH_ROWS", 2)
        self.patch.setattr(worker, "_RECOVERY_MESSAGES", 3)
        self.patch.setattr(backfill_module, "_BATCH_ROWS", 2)
        self.patch.setattr(deliver_drain, "_READ_MESSAGES", 2)
        self.patch.setattr(deliver_drain, "_SAVE_SECONDS", 0.0)
        for module in (leases, shares):
            self.patch.setattr(module, "TTL", timedelta(0))  # so that anybody may take over at any time
        self.bomb = Bomb()
        put_steps_between(self.bomb, self.patch)
        self.rows: dict[str, Row] = {}
        self.rows_at: dict[int, Rows] = {}
        self.cursors: list[progress.Cursor] = []
        self.copies: dict[str, Path] = {}
        self.seen: dict[str, Watermark] = {}
        self.kept_back: list[Message] = []
        self.set_back: set[str] = set()
        self.half_loaded: dict[str, int] = {}
        self.damaged_rows = 0

    @initialize(rows=ROWS, seed=SEEDS)
    def open(self, rows: Rows, seed: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="lpm_stream_", dir=SHM if SHM.is_dir() else None))
        shutil.copy(control_store_template(), self.home / "control.db")
        found = Settings.load(self.home).model_copy(
            update={"poll_seconds": 0.001, "hub_partitions": 2, "slots": 2}
        )
        self.hub = BadHub(
            LocalHub(Path(found.hub_url.removeprefix("local:")), found.hub_partitions, found.hub_retention_hours),
            self.bomb,
            random.Random(seed),
        )
        self.stream = Stream(SPEC, found, ControlStore(found.control_url), self.hub)
        create_table(self.stream.table, frame(rows))
        self.rows = dict(rows)
        self._committed()

    def teardown(self) -> None:
        try:
            if hasattr(self, "stream"):
                self.settle()
        finally:
            self.patch.undo()
            if hasattr(self, "stream"):
                self.stream.store.close()
                self.hub.close()
                shutil.rmtree(self.home)

    # Commits

    @rule(commits=st.lists(COMMITS, min_size=1, max_size=3))
    def commit(self, commits: list[Commit]) -> None:
        for one in commits:
            self._commit(one)

    def _commit(self, one: Commit) -> None:
        {
            "insert": lambda: self._insert(one.rows),
            "update": lambda: self._update(one.keys, one.amount),
            "move": lambda: self._move(one.keys, one.company),
            "delete": lambda: self._delete(one.keys),
            "change keys": lambda: self._change_keys(*sorted({*one.keys, "k0", "k1"})[:2]),
            "replace rows": lambda: self._replace_rows(one.rows),
            "overwrite a company": lambda: self._overwrite_company(one.company, one.rows),
            "overwrite everything": lambda: self._overwrite_everything(one.rows),
            "merge": lambda: self._merge(one.rows, one.keys),
            "restore": lambda: self._restore_table(1 + one.amount % 3),
            "compact": self._compact,
        }[one.kind]()

    def _committed(self) -> None:
        self.rows_at[DeltaTable(self.stream.table).version()] = dict(self.rows)

    def _insert(self, rows: Rows) -> None:
        new = {key: row for key, row in rows.items() if key not in self.rows}
        write_deltalake(self.stream.table, frame(new).to_arrow(), mode="append")
        self.rows |= new
        self._committed()

    def _update(self, keys: frozenset[str], amount: int) -> None:
        table = DeltaTable(self.stream.table)
        table.update(updates={"amount": str(amount)}, predicate=f"id IN ({listed(keys)})")
        self.rows |= {key: replace(self.rows[key], amount=amount) for key in keys & self.rows.keys()}
        self._committed()

    def _move(self, keys: frozenset[str], company: str) -> None:
        quoted = company.replace("'", "''")
        table = DeltaTable(self.stream.table)
        table.update(updates={"customer": f"'{quoted}'"}, predicate=f"id IN ({listed(keys)})")
        self.rows |= {key: replace(self.rows[key], company=company) for key in keys & self.rows.keys()}
        self._committed()

    def _delete(self, keys: frozenset[str]) -> None:
        DeltaTable(self.stream.table).delete(f"id IN ({listed(keys)})")
        self.rows = {key: row for key, row in self.rows.items() if key not in keys}
        self._committed()

    def _change_keys(self, one: str, other: str) -> None:
        """Swaps two keys, or gives a row a key that nobody has."""
        table = DeltaTable(self.stream.table)
        swapped = f"CASE WHEN id = '{one}' THEN '{other}' ELSE '{one}' END"
        table.update(updates={"id": swapped}, predicate=f"id IN ({listed({one, other})})")
        new_key = {one: other, other: one}
        self.rows = {new_key.get(key, key): row for key, row in self.rows.items()}
        self._committed()

    def _replace_rows(self, rows: Rows) -> None:
        """Deletes rows and inserts others of the same keys, at once."""
        new = {key: row for key, row in rows.items() if key in self.rows}
        predicate = f"id IN ({listed(set(rows))})"
        write_deltalake(self.stream.table, frame(new).to_arrow(), mode="overwrite", predicate=predicate)
        self.rows |= new
        self._committed()

    def _overwrite_company(self, company: str, rows: Rows) -> None:
        others = {key: row for key, row in self.rows.items() if row.company != company}
        new = {key: replace(row, company=company) for key, row in rows.items() if key not in others}
        predicate = "customer = '{}'".format(company.replace("'", "''"))
        write_deltalake(self.stream.table, frame(new).to_arrow(), mode="overwrite", predicate=predicate)
        self.rows = others | new
        self._committed()

    def _overwrite_everything(self, rows: Rows) -> None:
        write_deltalake(self.stream.table, frame(rows).to_arrow(), mode="overwrite")
        self.rows = dict(rows)
        self._committed()

    def _merge(self, upserts: Rows, deletes: frozenset[str]) -> None:
        """Inserts, updates, moves and deletes at once."""
        gone = {key: row for key, row in self.rows.items() if key in deletes - upserts.keys()}
        source = pl.concat(
            [
                frame(upserts).with_columns(gone=pl.lit(value=False)),
                frame(gone).with_columns(gone=pl.lit(value=True)),
            ]
        )
        merger = DeltaTable(self.stream.table).merge(
            source.to_arrow(), "target.id = source.id", source_alias="source", target_alias="target"
        )
        columns = {name: f"source.{name}" for name in SPEC.column_names}
        merger.when_matched_delete("source.gone").when_matched_update(
            columns, "NOT source.gone"
        ).when_not_matched_insert(columns).execute()
        self.rows = {key: row for key, row in self.rows.items() if key not in gone} | dict(upserts)
        self._committed()

    def _restore_table(self, back: int) -> None:
        newest = max(self.rows_at)
        if newest == 0:
            return
        version = max(newest - back, 0)
        DeltaTable(self.stream.table).restore(version)
        self.rows = dict(self.rows_at[version])
        self._committed()

    def _compact(self) -> None:
        DeltaTable(self.stream.table).optimize.compact()
        self._committed()

    # Work, and what may happen to it

    def _work(self, *drains: Callable[[Stream], object], steps: int | None = None) -> None:
        """Runs drains, each in a thread of its own; the bomb may go off, and all but one may lose their lease."""
        failures: list[BaseException] = []

        def run(drain: Callable[[Stream], object]) -> None:
            try:
                drain(self.stream)
            except BaseException as error:  # noqa: BLE001 - looked at below
                failures.append(error)

        self.bomb.set(steps)
        threads = [threading.Thread(target=run, args=(drain,)) for drain in drains]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.bomb.set(None)
        expected = (Crash, LeaseLostError) if len(drains) > 1 else Crash
        for failure in failures:
            if not isinstance(failure, expected):
                raise failure
        self._wait_for_slots()

    @staticmethod
    def _wait_for_slots() -> None:
        """What was in the slots at a crash goes on, as a worker does that does not know it was replaced."""
        for thread in threading.enumerate():
            if thread.name.startswith(("deliver_", "recover_")):
                thread.join()

    @rule(drains=DRAINS, steps=st.none() | STEPS, chunk_rows=CHUNK_ROWS)
    def work(self, drains: Drains, steps: int | None, chunk_rows: int) -> None:
        self.patch.setattr(pack, "_CHUNK_ROWS", chunk_rows)
        self._work(*drains, steps=steps)
        cursor = progress.read_cursor(self.stream.store, SPEC.name)
        if cursor is not None:
            self.cursors.append(cursor)

    # Hypothesis chooses among the names: most of what happens is work.
    work_on = work
    go_on_working = work

    @rule(steps=STEPS, chunk_rows=CHUNK_ROWS)
    def publisher_falls_asleep(self, steps: int, chunk_rows: int) -> None:
        """It has packed what there is, and wakes up when others have gone on."""
        self.patch.setattr(pack, "_CHUNK_ROWS", chunk_rows)
        self.hub.kept_back = []
        self._work(publish, steps=steps)
        self.kept_back, self.hub.kept_back = self.hub.kept_back, None
        if self.cursors:  # it stored none: it has sent nothing yet
            self._set_cursor(self.cursors[-1])
        else:
            with self.stream.store.write() as connection:
                connection.execute(tables.cursors.delete())

    @rule(count=st.integers(1, 10))
    def publisher_wakes_up(self, count: int) -> None:
        """It sends what it has, though it has lost its lease."""
        self.hub.send(self.kept_back[:count])
        self.kept_back = self.kept_back[count:]

    @rule(seed=SEEDS, count=st.integers(1, 5))
    def duplicate(self, seed: int, count: int) -> None:
        """Messages that are in the hub are stored once more."""
        stored = [one.message for one in self._received()]
        if stored:
            chance = random.Random(seed)
            self.hub.send([chance.choice(stored) for _ in range(count)])

    @rule(share=st.floats(0, 0.99))
    def set_cursor_back(self, share: float) -> None:
        if self.cursors:
            self._set_cursor(self.cursors[int(len(self.cursors) * share)])

    def _set_cursor(self, cursor: progress.Cursor) -> None:
        with self.stream.store.write() as connection:
            progress.write_cursor(connection, SPEC.name, cursor)

    @rule(share=st.sampled_from([0.0, 0.5, 0.9]))
    def set_checkpoints_back(self, share: float) -> None:
        """As an older copy of the control store would, or one that is new."""
        checkpoints = progress.read_checkpoints(self.stream.store, SPEC.name)
        with self.stream.store.write() as connection:
            back = {partition: int(number * share) for partition, number in checkpoints.items()}
            progress.write_checkpoints(connection, SPEC.name, back)
            if share == 0:
                connection.execute(tables.deliveries.delete())

    @rule(company=NAMES)
    def copy_database(self, company: str) -> None:
        path = self._path(company)
        if path.exists():
            self.copies[company] = Path(shutil.copy(path, self.home / f"{path.name}.copy"))

    @rule(company=NAMES, gone=st.booleans())
    def set_database_back(self, company: str, gone: bool) -> None:
        """To the copy that was made of it, or to nothing."""
        path = self._path(company)
        if company in self.copies and not gone:
            shutil.copy(self.copies[company], path)
        else:
            path.unlink(missing_ok=True)
        self.seen.pop(company, None)
        self.set_back.add(company)

    @rule(company=NAMES, rebuild=st.booleans(), steps=st.none() | STEPS, beside=st.booleans())
    def backfill(self, company: str, rebuild: bool, steps: int | None, beside: bool) -> None:
        """Loads a company from the table, alone or while a deliverer runs; it may be killed."""
        self.half_loaded[company] = DeltaTable(self.stream.table).version()
        load = functools.partial(self._backfill, company=company, rebuild=rebuild)
        self._work(*([load, deliver] if beside else [load]), steps=steps)

    @staticmethod
    def _backfill(stream: Stream, *, company: str, rebuild: bool) -> None:
        with suppress(LpmStreamError):  # the stream went on: its lease lasts no time here
            backfill(stream, company, rebuild=rebuild, go_on=lambda: True, tell=lambda _rows, _total: None)

    @rule(seed=SEEDS)
    def lose_a_message(self, seed: int) -> None:
        """It is damaged where it lies."""
        stored = self._received()
        if stored:
            one = random.Random(seed).choice(stored)
            self.hub.damage(one)
            self.damaged_rows += one.message.rows

    @rule(company=NAMES)
    def park(self, company: str) -> None:
        """As if its database had failed at the last message that it has."""
        known = progress.read_deliveries(self.stream.store, SPEC.name).get(company)
        mine = [one for one in self._received() if one.message.company == company]
        last = [one for one in mine if known is not None and one.sequence_number <= known.sequence_number][-1:]
        for one in last:
            state = parking.park(company, one.partition, one.sequence_number, datetime.now(UTC), "by hand")
            with self.stream.store.write() as connection:
                parking.write_parked(connection, SPEC.name, company, state)

    # What must hold

    @rule()
    def settle(self) -> None:
        """Without further faults everything arrives."""
        for company in sorted(self.set_back):  # it shows with the next message
            self._insert({f"new {len(self.rows_at)}": Row(company, 1, "after")})
        self.set_back.clear()
        for _ in range(10):
            self._work(publish)
            self._work(deliver)
            for company, state in parking.read_parked(self.stream.store, SPEC.name).items():
                if state.kind == "gap":
                    self._backfill(self.stream, company=company, rebuild=False)
            self._try_parked_now()
            if undelivered(self.stream) == 0 and not parking.read_parked(self.stream.store, SPEC.name):
                break
        parked = parking.read_parked(self.stream.store, SPEC.name)
        assert parked == {}, parked
        assert undelivered(self.stream) == 0
        assert quarantine.counts(self.stream.store, SPEC.name) == {}
        source = source_rows(self.stream.table)
        held = {row["id"]: Row(row["customer"], row["amount"], row["note"]) for row in source.to_dicts()}
        assert source.height == len(held)
        assert held == self.rows
        deliveries = progress.read_deliveries(self.stream.store, SPEC.name)
        for company in COMPANIES:
            versions = [one.message.version for one in self._received() if one.message.company == company]
            if not self._path(company).exists():
                assert not versions
                assert company not in {row.company for row in self.rows.values()}
                continue
            rows, watermark = self._stored(company)
            assert rows == {key: row for key, row in self.rows.items() if row.company == company}
            assert watermark.pending == {}
            if versions:
                assert max(versions) <= deliveries[company].version <= watermark.version

    def _try_parked_now(self) -> None:
        with self.stream.store.write() as connection:
            past = datetime.now(UTC) - timedelta(seconds=1)
            connection.execute(tables.parked.update().values(next_try_at=past))

    @invariant()
    def every_database_is_what_the_table_was_at_its_watermark(self) -> None:
        for company in COMPANIES:
            if not self._path(company).exists():
                continue
            rows, watermark = self._stored(company)
            before = self.seen.get(company, Watermark())
            assert watermark.version >= before.version
            assert watermark.changes >= before.changes
            assert watermark.fence >= before.fence
            sent = sum(one.message.rows for one in self._received() if one.message.company == company)
            assert watermark.changes <= sent + self.damaged_rows
            self.seen[company] = watermark
            if watermark.version >= self.half_loaded.get(company, -1):
                self.half_loaded.pop(company, None)
            if not watermark.pending and watermark.version >= 0 and company not in self.half_loaded:
                then = self.rows_at[watermark.version]
                assert rows == {key: row for key, row in then.items() if row.company == company}

    def _stored(self, company: str) -> tuple[Rows, Watermark]:
        with closing(SqliteDatabase(SPEC, company, str(self._path(company)))) as database:
            rows = query(database, "SELECT id, customer, amount, note FROM orders")
            with database.transaction() as transaction:
                return {key: Row(*values) for key, *values in rows}, transaction.watermark()

    def _path(self, company: str) -> Path:
        return Path(str(sa.make_url(database_urls(self.stream.store, self.stream.settings)[company]).database))

    def _received(self) -> list[Received]:
        return [one for part in self.hub.partitions() for one in self.hub.everything(part)]


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
