"""The kinds of company database that the simulation knows."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lpm_stream.delivery.sqlite import SqliteDatabase, SqliteTransaction


@dataclass(frozen=True)
class Databases:
    """Where a life's company databases are, and what has boundaries in them.

    Attributes:
        database: the class whose transactions have boundaries.
        transaction: the class of these.
        within_merge: what is done to rows on their way: by which method of which class.
        url: of the new database of a company: by the life's directory, and the company's number in it.
    """

    database: type
    transaction: type
    within_merge: Mapping[str, tuple[type, str]]
    url: Callable[[Path, int], str]


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        serving: runs a server if there has to be one, and tells where it is.
        at: databases on it.
    """

    serving: Callable[[], AbstractContextManager[str]]
    at: Callable[[str], Databases]


@contextmanager
def _no_server() -> Iterator[str]:
    yield ""


def _sqlite(_place: str) -> Databases:
    def url(home: Path, number: int) -> str:
        return f"sqlite:///{home}/companies/{number}.db"

    return Databases(SqliteDatabase, SqliteTransaction, {}, url)  # which has no stage


@contextmanager
def _postgresql_server() -> Iterator[str]:
    from lpm_stream_tests import postgresql  # noqa: PLC0415 - its parts only where it is tried

    with postgresql.running() as server:
        yield server.host


def _postgresql(place: str) -> Databases:
    from adbc_driver_manager.dbapi import Cursor  # noqa: PLC0415

    from lpm_stream.delivery.postgresql import PostgresqlDatabase, PostgresqlTransaction  # noqa: PLC0415
    from lpm_stream_tests.postgresql import Server  # noqa: PLC0415

    server = Server(place)

    def url(_home: Path, number: int) -> str:
        name = f"life_{os.getpid()}_{number}"  # one at a time
        server.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.run(f"CREATE DATABASE {name} STRATEGY file_copy")
        return server.url(name).render_as_string()

    within_merge = {"clearing the stage": (PostgresqlTransaction, "_clear"), "staging": (Cursor, "adbc_ingest")}
    return Databases(PostgresqlDatabase, PostgresqlTransaction, within_merge, url)


KINDS: Mapping[str, Kind] = {
    "sqlite": Kind(_no_server, _sqlite),
    "postgresql": Kind(_postgresql_server, _postgresql),
}
