"""Where a company's database is: a URL, or a reference to a secret that holds one."""

import sqlalchemy as sa

from lpm_stream.errors import LpmStreamError, TargetFaultError
from lpm_stream.secret import resolve

_REFERENCES = ("env:", "file:")
_SECRETS = frozenset({"password", "pwd", "passwd", "sslpassword", "accesstoken"})
_ADVICE = "put the whole URL into an environment variable or a file, and give env:NAME or file:PATH instead"


def parse(place: str) -> sa.URL:
    """The URL of a database, with what a reference leads to; it is looked up anew each time.

    Args:
        place: a SQLAlchemy URL, `env:NAME` or `file:PATH`.

    Raises:
        TargetFaultError: if it is none of these, or the reference leads to none.
    """
    try:
        url = resolve(place, "its database") if place.startswith(_REFERENCES) else place
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        said = place if place.startswith(_REFERENCES) else "its database"  # the text may hold a password
        raise TargetFaultError(f"{said} is not a SQLAlchemy URL, like postgresql://USER@HOST/DATABASE") from error
    except LpmStreamError as error:
        raise TargetFaultError(str(error)) from error


def require_no_secret(place: str) -> None:
    """Refuses what would put a password into the control store.

    Raises:
        ValueError: if it is a URL with a password, or none at all.
    """
    if place.startswith(_REFERENCES):
        if not place.partition(":")[2]:
            raise ValueError("the reference names nothing: give env:NAME or file:PATH")
        return
    try:
        url = sa.make_url(place)
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError(
            "is neither a SQLAlchemy URL, like postgresql://USER@HOST/DATABASE, nor env:NAME or file:PATH"
        ) from None
    named = {name.lower() for name in url.query} | set(_odbc_names(url))
    if url.password is not None or _SECRETS & named:
        raise ValueError(f"the URL has a password in it, which is not to be stored: {_ADVICE}")


def shown(place: str) -> str:
    """A place for people: a reference as it is, a URL without password and query."""
    if place.startswith(_REFERENCES):
        return place
    try:
        return sa.make_url(place).set(query={}).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return "(not a URL)"


def _odbc_names(url: sa.URL) -> list[str]:
    """The attributes of a connection string for ODBC, which a URL may carry in its query."""
    texts = url.query.get("odbc_connect", "")
    text = texts if isinstance(texts, str) else ";".join(texts)
    return [part.partition("=")[0].strip().lower() for part in text.split(";")]
