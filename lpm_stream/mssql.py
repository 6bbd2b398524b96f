"""What everything that talks to SQL Server shares: how a URL is understood, the two drivers, and names in T-SQL.

Azure SQL Database is SQL Server here. Facts about the drivers are of pyodbc 5.5 and mssql-python 1.16.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from lpm_stream.database_url import with_password
from lpm_stream.errors import LpmStreamError, TargetFaultError

LONGEST_NAME = 128  # characters of an identifier

_LONGEST_MESSAGE = 300  # some go on for pages

_LOGIN_SECONDS = 10
_STATEMENT_SECONDS = 600
_MAINTENANCE = "master"  # a database that every server has

# What the URL's query says wins, whatever its case. TLS is verified unless somebody says otherwise.
# https://learn.microsoft.com/sql/connect/odbc/dsn-connection-string-attribute
_LIMITS: Mapping[str, str] = MappingProxyType({"Encrypt": "yes", "TrustServerCertificate": "no"})
_ODBC: Mapping[str, str] = MappingProxyType({"Driver": "ODBC Driver 18 for SQL Server", "APP": "lpm_stream"})

# Everything is rolled back if anything fails, nothing waits for ever for a lock, counts are not reported, and
# messages are in the language in which `said` finds the values that they quote.
_SESSION = (
    "SET XACT_ABORT ON; SET NOCOUNT ON; SET LOCK_TIMEOUT 10000; SET LANGUAGE us_english; "
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
)


# Of new databases: who reads does not wait for who writes, and an audit sees one moment. So they are in Azure.
_OPTIONS = ("READ_COMMITTED_SNAPSHOT", "ALLOW_SNAPSHOT_ISOLATION")


class MssqlError(Exception):
    """What a driver or the server says; one line, for people."""


@dataclass(frozen=True)
class Connection:
    """A connection of either driver, whose errors are MssqlErrors."""

    _raw: Any
    _errors: tuple[type[Exception], ...]

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Executes a statement and returns the rows of its first result, if it has one."""
        with self._told(), closing(self._raw.cursor()) as cursor:
            cursor.execute(statement, *([tuple(values)] if values else []))
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def bulk_copy(self, table: str, rows: pa.Table) -> None:
        """Copies rows into columns of their names, on a connection of its own: committed at once.

        Raises:
            MssqlError: if it fails, or the driver has no such thing.
        """
        with self._told(), closing(self._raw.cursor()) as cursor:
            if not hasattr(cursor, "bulkcopy_arrow"):
                raise MssqlError("this driver has no bulk copy")
            cursor.bulkcopy_arrow(
                table, rows, column_mappings=rows.column_names, timeout=_STATEMENT_SECONDS, keep_nulls=True
            )

    def commit(self) -> None:
        """Commits."""
        with self._told():
            self._raw.commit()

    def rollback(self) -> None:
        """Rolls back."""
        with self._told():
            self._raw.rollback()

    def close(self) -> None:
        """Closes it; what was not committed is rolled back."""
        with suppress(*self._errors):  # of one that is broken
            self._raw.close()

    @contextmanager
    def _told(self) -> Any:
        try:
            yield
        except self._errors as error:
            raise MssqlError(said(str(error.args[-1] if error.args else error))) from error


def connect(url: sa.URL, *, autocommit: bool = False) -> Connection:
    """Connects with the driver that the URL names.

    Raises:
        MssqlError: if the server cannot be reached, or refuses.
        LpmStreamError: if the driver is not installed.
    """
    _, errors = driver(url)
    try:
        return Connection(connect_raw(url, autocommit=autocommit), errors)
    except errors as error:
        raise MssqlError(said(str(error.args[-1] if error.args else error))) from error


def connect_raw(url: sa.URL, *, autocommit: bool = False) -> Any:
    """The same, as the driver has it.

    Raises:
        Exception: one of the driver's own, which `driver` tells.
    """
    module, _ = driver(url)
    raw = module.connect(connection_string(url), autocommit=autocommit, timeout=_LOGIN_SECONDS)
    try:
        raw.timeout = _STATEMENT_SECONDS
        with closing(raw.cursor()) as cursor:
            cursor.execute(_SESSION)
    except BaseException:
        raw.close()
        raise
    return raw


def has_bulk_copy(url: sa.URL) -> bool:
    """Whether the driver that the URL names can copy in bulk."""
    return url.drivername == "mssql+mssqlpython"


def driver(url: sa.URL) -> tuple[ModuleType, tuple[type[Exception], ...]]:
    """The driver that the URL names, and what it raises.

    Neither keeps connections behind our back: sessions are set up once.

    Raises:
        LpmStreamError: if it is not installed, or none is named.
    """
    if url.drivername == "mssql+mssqlpython":
        try:
            import mssql_python  # noqa: PLC0415 - only where it is needed is it installed
            from mssql_python.exceptions import ConnectionStringParseError  # noqa: PLC0415
            from mssql_python.exceptions import Exception as MssqlPythonError  # noqa: PLC0415
        except ImportError as error:
            raise LpmStreamError(
                f"SQL Server needs its driver, which is not installed ({error}): pip install 'lpm-stream[mssql]'"
            ) from error
        mssql_python.pooling(enabled=False)
        # Its lower layers raise Python's own errors.
        return mssql_python, (MssqlPythonError, ConnectionStringParseError, RuntimeError, ValueError, OSError)
    if url.drivername == "mssql+pyodbc":
        try:
            import pyodbc  # noqa: PLC0415
        except ImportError as error:
            raise LpmStreamError(
                f"mssql+pyodbc does not work here ({error}): pip install 'lpm-stream[mssql]', apt-get install "
                f"unixodbc and Microsoft's msodbcsql18; or use mssql+mssqlpython://, which needs neither"
            ) from error
        pyodbc.pooling = False
        return pyodbc, (pyodbc.Error,)
    raise LpmStreamError(
        f"{url.drivername}:// does not say which driver: use mssql+mssqlpython:// or mssql+pyodbc://"
    )


def connection_string(url: sa.URL) -> str:
    """What ODBC takes, password included: not to be shown.

    Raises:
        TargetFaultError: if the URL refers to a password that is not there.
    """
    url = with_password(url)
    host = url.host or "localhost"
    named = {
        "Server": f"{host},{url.port}" if url.port else host,
        "Database": url.database,
        "UID": url.username,
        "PWD": None if url.password is None else str(url.password),
    }
    defaults = {**_LIMITS, **(_ODBC if url.drivername == "mssql+pyodbc" else {})}
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    asked = {name.lower() for name in query}
    given = {name: value for name, value in defaults.items() if name.lower() not in asked}
    given |= query | {name: value for name, value in named.items() if value is not None}
    return "".join(f"{name}={_braced(value)};" for name, value in given.items())


def _braced(value: str) -> str:
    return "{" + value.replace("}", "}}") + "}"


def shown(url: sa.URL) -> str:
    """The URL for people: without its password, and without its query, in which one may be, too."""
    return url.set(query={}).render_as_string(hide_password=True)


def require_name(url: sa.URL) -> str:
    """The name of the URL's database.

    Raises:
        TargetFaultError: if it has none, or one that is too long.
    """
    if not url.database:
        raise TargetFaultError(f"{shown(url)} names no database; use mssql+mssqlpython://USER@HOST/DATABASE")
    if len(url.database) > LONGEST_NAME:
        raise TargetFaultError(
            f"{shown(url)}: a database's name has at most {LONGEST_NAME} characters; shorten what surrounds "
            f"{{company}} in LPM_STREAM_DATABASE_TEMPLATE"
        )
    return url.database


def exists(url: sa.URL) -> bool | None:
    """Whether the server has the URL's database; None if it does not say.

    A login that may not open a database is told the same as where there is none (error 4060).
    """
    try:
        with closing(connect(url.set(database=_MAINTENANCE))) as connection:
            return bool(connection.execute("SELECT 1 FROM sys.databases WHERE name = ?", (require_name(url),)))
    except MssqlError:
        return None


def create(url: sa.URL) -> None:
    """Creates the URL's database unless it exists; several may do so at once.

    Raises:
        MssqlError: if the login may not, or the server cannot.
    """
    with closing(connect(url.set(database=_MAINTENANCE), autocommit=True)) as connection:
        try:
            connection.execute(f"CREATE DATABASE {quoted(require_name(url))}")
        except MssqlError:
            if not exists(url):  # somebody else was quicker
                raise
        for option in _OPTIONS:
            with suppress(MssqlError):  # a server that does not know one does well without
                connection.execute(f"ALTER DATABASE {quoted(require_name(url))} SET {option} ON")


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return "[" + name.replace("]", "]]") + "]"


def literal(text: str) -> str:
    """A text as literal, for places that take no parameter.

    A backslash before a line's end would swallow both, so the two are kept apart.
    https://learn.microsoft.com/sql/t-sql/language-elements/sql-server-utilities-statements-backslash
    """
    doubled = text.replace("'", "''")
    apart, parts = re.subn(r"\\(?=\r?\n)", lambda _: "\\' + N'", doubled)
    return f"(N'{apart}')" if parts else f"N'{apart}'"


def listed(names: Iterable[str]) -> str:
    """Identifiers, quoted, as a list."""
    return ", ".join(map(quoted, names))


def said(text: str) -> str:
    """The server's own message in one line, without what it quotes of rows."""
    text = " ".join(text.split())
    text = re.sub(r"^Driver Error: .*?; DDBC Error: ", "", text)
    text = _ORIGINS.sub("", text)
    text = re.sub(r"( \(0\))? \(SQL\w+\)", "", text)
    text = _QUOTES.sub("", text).strip()
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."


# Which layer speaks, and the state, which is of five digits and capitals.
_ORIGINS = re.compile(
    r"\[[^\]\[]*(?:Microsoft|SQL Server|unixODBC|Driver Manager|FreeTDS|ODBC)[^\]\[]*\]|\[[0-9A-Z]{5}\] ?"
)

# Errors 2627 and 2601 (the key), 2628 (the value), 241 to 248 and 8114 (the value), 220 and 232 (the value).
_QUOTES = re.compile(
    r" ?The duplicate key value is \(.*\)\.?| ?Truncated value: '.*'\.?"
    r"|(?<=value) '.*'(?= to data type| overflowed)|, value = \S+(?=\.)",
    re.DOTALL,
)
