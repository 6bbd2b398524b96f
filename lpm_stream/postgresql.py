"""What everything that talks to PostgreSQL shares: how a URL is understood, and whether its database exists."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import sqlalchemy as sa

from lpm_stream.database_url import with_password
from lpm_stream.errors import TargetFaultError

DRIVER_MISSING = "PostgreSQL needs its drivers, which are not installed: pip install 'lpm-stream[postgresql]'"

LONGEST_NAME = 63  # bytes; PostgreSQL cuts off what is longer (NAMEDATALEN - 1)

# Nothing waits for ever: neither for a server that does not answer nor for one that has vanished meanwhile.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "connect_timeout": "10",
        "tcp_user_timeout": "30000",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "client_encoding": "UTF8",
        "application_name": "lpm_stream",
    }
)
_MAINTENANCE = "postgres"  # a database that every server has


def connection_string(url: sa.URL) -> str:
    """What libpq takes, password included: not to be shown. What the URL's query says wins over our limits.

    A password that is given by reference is looked up.

    Not a URL: SQLAlchemy writes a space as `+`, which libpq takes for a plus sign.

    Raises:
        TargetFaultError: if the reference leads to nothing.
    """
    url = with_password(url)
    named = {
        "host": url.host,
        "port": url.port,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
    }
    given = {name: str(value) for name, value in named.items() if value is not None}
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    return " ".join(f"{name}='{_escaped(value)}'" for name, value in {**_LIMITS, **query, **given}.items())


def shown(url: sa.URL) -> str:
    """The URL for people: without its password, and without its query, in which one may be, too."""
    return url.set(query={}).render_as_string(hide_password=True)


def require_name(url: sa.URL) -> str:
    """The name of the URL's database.

    Raises:
        TargetFaultError: if it has none, or one that PostgreSQL would cut off.
    """
    name = url.database
    if not name:
        raise TargetFaultError(f"{shown(url)} names no database; use postgresql://USER@HOST/DATABASE")
    if len(name.encode()) > LONGEST_NAME:
        raise TargetFaultError(
            f"{shown(url)}: a database's name has at most {LONGEST_NAME} bytes; shorten what surrounds "
            f"{{company}} in LPM_STREAM_DATABASE_TEMPLATE"
        )
    return name


def exists(url: sa.URL) -> bool | None:
    """Whether the server has the URL's database; None if it does not say.

    libpq gives no code for why a connection failed, only a text in the server's language.
    """
    import psycopg  # noqa: PLC0415 - seldom needed

    try:
        with psycopg.connect(_maintenance(url), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            return connection.execute(query, (require_name(url),)).fetchone() is not None
    except psycopg.Error:
        return None


def create(url: sa.URL) -> None:
    """Creates the URL's database unless it exists; several may do so at once.

    Raises:
        psycopg.Error: if the role may not, or the server cannot.
    """
    import psycopg  # noqa: PLC0415 - seldom needed
    from psycopg import errors, sql  # noqa: PLC0415

    statement = sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(
        sql.Identifier(require_name(url))
    )
    with psycopg.connect(_maintenance(url), autocommit=True) as connection:
        try:
            connection.execute(statement)
        except (errors.DuplicateDatabase, errors.UniqueViolation):
            return


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as literal, for places that take no parameter; needs `standard_conforming_strings`, the default."""
    return "'" + text.replace("'", "''") + "'"


def listed(names: Iterable[str]) -> str:
    """Identifiers, quoted, as a list."""
    return ", ".join(map(quoted, names))


def _maintenance(url: sa.URL) -> str:
    """How to reach the server without the URL's database, which may not exist."""
    return connection_string(url.set(database=_MAINTENANCE))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
