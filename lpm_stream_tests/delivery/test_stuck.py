"""Databases that answer no more: what is left of the tasks that wait for them."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lpm_stream.control import leases, progress, tables
from lpm_stream.control.registry import register
from lpm_stream.delivery import drain as deliver_drain
from lpm_stream.delivery import loss
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.worker import Worker
from lpm_stream.resync import begin_anew
from lpm_stream.stream import Stream
from lpm_stream_tests.delivery.test_drain import commit, delivering, parked, wait_until
from lpm_stream_tests.example import SPEC, append, orders, publish, stored


@contextmanager
def silent_postgresql() -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that lets everybody in and never answers then; its address, and the connections to it."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_greet_all, args=(server, connections), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", connections
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


def _greet_all(server: socket.socket, connections: list[socket.socket]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        connections.append(connection)
        while _startup(connection) == struct.pack("!i", 80877103):  # wants TLS
            connection.sendall(b"N")
        version = b"server_version\x0015.0\x00"
        connection.sendall(b"R" + struct.pack("!ii", 8, 0))
        connection.sendall(b"S" + struct.pack("!i", 4 + len(version)) + version)
        connection.sendall(b"Z" + struct.pack("!i", 5) + b"I")


def _startup(connection: socket.socket) -> bytes:
    (length,) = struct.unpack("!i", connection.recv(4))
    return connection.recv(length - 4)[:4]


def test_a_silent_database_keeps_one_connection_whatever_number_of_drains(stream, monkeypatch):
    for patience in ("_SLOW_SECONDS", "_SLOW_RECOVERY_SECONDS", "_FINISH_SECONDS"):
        monkeypatch.setattr(deliver_drain, patience, 0.3)
    with silent_postgresql() as (address, connections):
        register(stream.store, "C", f"postgresql://x@{address}/c")
        commit(stream, A="1", C="2")
        for _ in range(4):
            _try_now(stream)
            until = time.monotonic() + 0.7
            stream.deliverer().drain(go_on=lambda until=until: time.monotonic() < until)
        assert len(connections) == 1
        assert set(parked(stream)) == {"C"}
        assert set(stored(stream, "A")) == {"1"}


def _try_now(stream: Stream) -> None:
    with stream.store.write() as connection:
        connection.execute(tables.parked.update().values(next_try_at=datetime.now(UTC) - timedelta(seconds=1)))


@pytest.fixture
def held_up(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events: the own reader of a company has begun its try; and it may go on."""
    begun, may_go_on = threading.Event(), threading.Event()
    recover = Worker.recover

    def slowly(self, state, applied_before):
        begun.set()
        may_go_on.wait(20)
        return recover(self, state, applied_before)

    monkeypatch.setattr(Worker, "recover", slowly)
    yield begun, may_go_on
    may_go_on.set()


def test_the_first_message_of_a_parked_company_that_comes_during_a_try_is_kept_in_mind(
    stream, monkeypatch, held_up
):
    monkeypatch.setattr(loss, "_PAUSE_SECONDS", 0.05)
    begun, may_go_on = held_up
    append(stream.table, orders(["1"], "A"))
    publish(stream)
    begin_anew(stream)  # so that it is not known where the company's messages are
    with stream.store.write() as connection:
        ends = {partition: stream.hub.end(partition) for partition in stream.hub.partitions()}
        progress.write_checkpoints(connection, SPEC.name, ends)
    with delivering(stream):
        assert begun.wait(20)
        backfill(stream, "A", rebuild=False, go_on=lambda: True, tell=lambda *_: None)
        append(stream.table, orders(["2"], "A"))
        publish(stream)
        lease = leases.acquire(
            stream.store, leases.lease_name("backfill", SPEC.name, "A"), leases.worker_name("backfill")
        )
        assert lease is not None
        _hold(stream, lease.fence)
        time.sleep(0.5)  # for the drain to read the message while the try goes on
        may_go_on.set()
        wait_until(lambda: "A" in parked(stream) and parked(stream)["A"].partition >= 0)
        _hold(stream, 0)
        leases.release(stream.store, lease)
        wait_until(lambda: set(stored(stream, "A")) == {"1", "2"} and "A" not in parked(stream))


def _hold(stream: Stream, fence: int) -> None:
    with stream.company_database("A") as database, database.transaction() as transaction:
        transaction.store(replace(transaction.watermark(), hold=fence))
