"""Where a database is: a URL, or a reference to a secret that holds one.

A URL's password may be a reference, too: `postgresql://USER@HOST/DATABASE?password=env:NAME`.
"""

from collections.abc import Mapping
from types import MappingProxyType

import sqlalchemy as sa

from lpm_stream.errors import LpmStreamError, TargetFaultError
from lpm_stream.secret import FORMS, is_reference, resolve

# What a URL's query may say where it is stored: what is not known to hold no secret may hold one. In lower case.
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_LIBPQ = frozenset(
    """
    application_name channel_binding client_encoding connect_timeout fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version options passfile port replication require_auth
    requirepeer service servicefile ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode
    sslcompression sslcrl sslcrldir sslkey sslmode sslnegotiation sslrootcert sslsni target_session_attrs
    tcp_user_timeout user
    """.split()  # noqa: SIM905 - one name a line would fill two pages
)
# https://learn.microsoft.com/sql/connect/odbc/dsn-connection-string-attribute
_ODBC = frozenset(
    """
    addr address ansinpw app applicationintent authentication autotranslate connectretrycount
    connectretryinterval database driver encrypt hostnameincertificate ipaddresspreference keepalive
    keepaliveinterval language longasmax mars_connection multisubnetfailover packetsize quotedid regional server
    servercertificate serverspn transparentnetworkipresolution trust_server_certificate trusted_connection
    trustservercertificate uid usefmtonly wsid
    """.split()  # noqa: SIM905 - one name a line would fill two pages
)
_HARMLESS: Mapping[str, frozenset[str]] = MappingProxyType({"postgresql": _LIBPQ, "mssql": _ODBC})
_ADVICE = f"give a reference for it, as in ?password=env:NAME, or for the whole URL: {FORMS}"


def parse(place: str, setting: str = "its database") -> sa.URL:
    """The URL of a database. No error repeats any of its text, which may be part of a password.

    Args:
        place: a SQLAlchemy URL, or a reference to one.
        setting: where the place stands, for errors.

    Raises:
        TargetFaultError: if it is neither, or the reference leads to none.
    """
    try:
        url = sa.make_url(resolve(place, setting) if is_reference(place) else place)
    except (sa.exc.ArgumentError, ValueError):
        raise TargetFaultError(
            f"{setting}: not a SQLAlchemy URL, like postgresql://USER@HOST/DATABASE; in a password write %40 for @"
        ) from None
    except LpmStreamError as error:
        raise TargetFaultError(str(error)) from None
    if "@" in (url.host or ""):
        raise TargetFaultError(f"{setting}: an @ too many; in a password write %40 for @")
    return url


def with_password(url: sa.URL) -> sa.URL:
    """The URL with the password that its query refers to; without such a reference as it is.

    Raises:
        TargetFaultError: if the reference leads to nothing.
    """
    reference = url.query.get("password")
    if not isinstance(reference, str) or not is_reference(reference):
        return url
    try:
        password = resolve(reference, "the database's password")
    except LpmStreamError as error:
        raise TargetFaultError(str(error)) from None
    return url.difference_update_query(["password"]).set(password=password)


def require_no_secret(place: str) -> None:
    """Refuses what would put a password into the control store.

    Raises:
        ValueError: if it is a URL with a password or with what may be one, or none at all.
    """
    if is_reference(place):
        if not place.partition(":")[2]:
            raise ValueError(f"the reference names nothing: give {FORMS}")
        return
    try:
        url = parse(place)
    except TargetFaultError:
        raise ValueError(
            f"is neither a SQLAlchemy URL, like postgresql://USER@HOST/DATABASE, nor {FORMS}"
        ) from None
    if url.password is not None or not all(_is_harmless(url, name) for name in url.query):
        raise ValueError(f"the URL has a password in it, or what may be one, which is not to be stored: {_ADVICE}")


def _is_harmless(url: sa.URL, name: str) -> bool:
    """Whether a part of a URL's query holds no secret."""
    value = url.query[name]
    if name == "password":
        return isinstance(value, str) and is_reference(value)
    kind = url.get_backend_name()
    if kind == "mssql" and ";" in str(value):  # another attribute behind it
        return False
    return name.lower() in _HARMLESS.get(kind, ())


def shown(place: str) -> str:
    """A place for people: a reference as it is, a URL without password and query."""
    if is_reference(place):
        return place
    try:
        return parse(place).set(query={}).render_as_string(hide_password=True)
    except TargetFaultError:
        return "(not a URL)"
