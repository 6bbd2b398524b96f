"""Where a database is: a URL, or a reference to a secret that holds one.

A URL's password may be a reference, too: `postgresql://USER@HOST/DATABASE?password=env:NAME`.
"""

import sqlalchemy as sa

from lpm_stream.errors import LpmStreamError, TargetFaultError
from lpm_stream.secret import FORMS, is_reference, resolve

_SECRETS = frozenset({"password", "pwd", "passwd", "sslpassword", "accesstoken"})
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
        ValueError: if it is a URL with a password, or none at all.
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
    literal = {name.lower() for name, value in url.query.items() if not is_reference(str(value))}
    if url.password is not None or _SECRETS & (literal | _odbc_names(url)):
        raise ValueError(f"the URL has a password in it, which is not to be stored: {_ADVICE}")


def shown(place: str) -> str:
    """A place for people: a reference as it is, a URL without password and query."""
    if is_reference(place):
        return place
    try:
        return parse(place).set(query={}).render_as_string(hide_password=True)
    except TargetFaultError:
        return "(not a URL)"


def _odbc_names(url: sa.URL) -> set[str]:
    """The attributes of a connection string for ODBC, which a URL may carry in its query."""
    texts = url.query.get("odbc_connect", "")
    text = texts if isinstance(texts, str) else ";".join(texts)
    return {part.partition("=")[0].strip().lower() for part in text.split(";")}
