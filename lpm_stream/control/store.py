"""Opens the control store: a small SQL database, brought to the current schema when it is opened."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR, SQLITE_READONLY
from typing import Any

import sqlalchemy as sa

from lpm_stream import database_url, postgresql
from lpm_stream.errors import LpmStreamError, TargetFaultError
from lpm_stream.wal import use_wal

HEAD = "0011"
_BUSY_SECONDS = 10
_READS = "lpm_stream_reads"
_OF_THE_DISK = frozenset({SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR, SQLITE_READONLY})
_PRIMARY = 0xFF  # of a code of SQLite's: what kind it is of, https://www.sqlite.org/rescode.html


class ControlStore:
    """The control store's connections: `read()` sees one snapshot, `write()` is one transaction."""

    def __init__(self, url: str) -> None:
        """Opens the store, creating or migrating it where needed.

        Args:
            url: a SQLAlchemy URL, or a reference to one.

        Raises:
            LpmStreamError: if it cannot be opened or written.
        """
        self._engine = _engine(url)
        with self.write() as connection:
            self._migrate(connection)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that reads one consistent state."""
        with _explained(self._engine), self._engine.connect() as connection:
            yield connection.execution_options(**{_READS: True})

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection in one transaction, committed at the end."""
        with _explained(self._engine), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    @staticmethod
    def _migrate(connection: sa.Connection) -> None:
        if sa.inspect(connection).has_table("alembic_version"):
            current = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            if current == HEAD:
                return
            if current is not None and current > HEAD:
                raise LpmStreamError(
                    f"the control store is of a newer lpm_stream (schema {current}, not {HEAD}): install that"
                )
        from lpm_stream.control.migrate import upgrade  # noqa: PLC0415 - Alembic only where there is work

        upgrade(connection)


def upsert(connection: sa.Connection, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Updates the row of that key or inserts it: one way for every kind of database."""
    upsert_all(connection, table, [key], [values])


def upsert_all(
    connection: sa.Connection,
    table: sa.Table,
    keys: Sequence[Mapping[str, Any]],
    values: Sequence[Mapping[str, Any]],
) -> None:
    """Updates the rows of these keys and inserts those that there are not, with three statements in all.

    Args:
        connection: a transaction.
        table: where to; its primary key consists of the names in each of `keys`.
        keys: the rows' keys, each once.
        values: the rows' other columns, in the same order.
    """
    if not keys:
        return
    names = list(keys[0])
    query = sa.select(*(table.c[name] for name in names)).where(among(table, keys))
    known = {tuple(row) for row in connection.execute(query)}
    old, new = [], []
    for key, row in zip(keys, values, strict=True):
        if tuple(key.values()) in known:
            old.append({f"key_{name}": value for name, value in key.items()} | dict(row))
        else:
            new.append({**key, **row})
    if old:
        matches = [table.c[name] == sa.bindparam(f"key_{name}", type_=table.c[name].type) for name in names]
        connection.execute(table.update().where(*matches), old)
    if new:
        connection.execute(table.insert(), new)


def among(table: sa.Table, keys: Sequence[Mapping[str, Any]]) -> sa.ColumnElement[bool]:
    """What is true of rows whose columns take, each on its own, values that occur in `keys`.

    That may be more rows than have these keys, but every database can do it, and with an index.
    """
    return sa.and_(*(table.c[name].in_({key[name] for key in keys}) for name in keys[0]))


def _engine(url: str) -> sa.Engine:
    parsed = database_url.parse(url, "LPM_STREAM_CONTROL_URL")
    kind = parsed.get_backend_name()
    if kind not in {"sqlite", "postgresql"}:
        raise LpmStreamError(
            f"LPM_STREAM_CONTROL_URL: the control store cannot be in {kind}: give a URL of SQLite or PostgreSQL"
        )
    try:
        return _postgresql_engine(parsed) if kind == "postgresql" else _sqlite_engine(parsed)
    except (sa.exc.ArgumentError, ValueError, ImportError, TargetFaultError) as error:
        raise LpmStreamError(f"LPM_STREAM_CONTROL_URL: {error}; give a SQLAlchemy URL") from None


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    postgresql.require_name(url)
    try:
        import psycopg  # noqa: PLC0415 - only where it is needed is it installed
    except ImportError as error:
        raise LpmStreamError(postgresql.DRIVER_MISSING) from error

    def connect() -> psycopg.Connection:
        try:
            secret = postgresql.connection_string(url)
        except TargetFaultError as error:
            raise LpmStreamError(f"control store: {error}") from None
        return psycopg.connect(secret)

    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg", query={}), creator=connect, pool_pre_ping=True
    )
    sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def _begin_postgresql(connection: sa.Connection) -> None:
    if connection.get_execution_options().get(_READS, False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return
    # One writes at a time, as in SQLite: what a transaction has read stays true until its end.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(_BUSY_SECONDS * 1000)}")
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('lpm_stream control store'))")


def _sqlite_engine(parsed: sa.URL) -> sa.Engine:
    if parsed.database and parsed.database != ":memory:":
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LpmStreamError(
                f"control store {parsed.database}: {error.strerror}; choose another --dir"
            ) from error
    engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # transactions begin in _begin_sqlite
    use_wal(dbapi_connection)


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that began by reading could not go on after another's commit; so it takes its place at once.
    reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def _explained(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        where = engine.url.render_as_string(hide_password=True)
        said = " ".join(str(error.orig).split())
        raise LpmStreamError(f"control store {where}: {said}{_advice(error.orig)}") from error


def _advice(error: BaseException | None) -> str:
    """What to look at, where it is the disk: SQLite calls most of what a full one does an I/O error."""
    code = getattr(error, "sqlite_errorcode", 0)
    return "; check free space and permissions" if code & _PRIMARY in _OF_THE_DISK else ""
