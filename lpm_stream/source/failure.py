"""What deltalake's errors say, for people: one line, with the cause."""

import re

from deltalake.exceptions import TableNotFoundError

from lpm_stream.errors import SourceError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CAUSE = "↳"  # before each cause, which has a line of its own; a backtrace may follow the last
_QUERY = re.compile(r"(https?://[^\s?]+)\?\S*")  # may hold a signature
_DURATION = re.compile(
    r" in [\d.]+(?:[nmµμ]?s)\b"
)  # another one each time; so each look's text would be a new one
_LONGEST = 400  # characters
_END = 150  # of these: where the innermost cause is


def unreadable(location: str, error: Exception, what: str = "cannot be read") -> SourceError:
    """What to say of a table that deltalake does not open or read.

    Args:
        location: the table's path or URL.
        error: what was raised.
        what: what cannot be done.
    """
    if isinstance(error, TableNotFoundError):
        return SourceError(f"no Delta table at {location}: check LPM_STREAM_TABLES_URL (or create the table)")
    advice = "; check LPM_STREAM_TABLES_URL and the credentials in the environment" if "://" in location else ""
    return SourceError(f"table {location} {what}: {one_line(error)}{advice}")


def one_line(error: Exception) -> str:
    """An error's text with the chain of its causes, bounded, without what changes from one try to the next."""
    parts = [part.strip().partition("\n")[0] for part in _COLOUR.sub("", str(error)).split(_CAUSE)]
    text = " ".join(": ".join(part for part in parts if part).split())
    text = _DURATION.sub("", _QUERY.sub(r"\1", text)).rstrip(".")
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - _END]} ... {text[-_END:]}"
