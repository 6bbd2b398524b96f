"""How a company's id reads in Dagster and in the addresses of its pages."""

import re

# What Dagster refuses in a partition key ("..." is its notation of a range), and the escape sign itself.
_UNFIT = re.compile(r"\.{3,}|[%\x00-\x1f\x7f]+")


_ESCAPED = re.compile("%([0-9A-F]{2})")


def company_id(key: str) -> str:
    """The company of a partition key."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), key)


def partition_key(company: str) -> str:
    """The partition key of a company: its id wherever Dagster takes that, never the same for two ids.

    Control characters, runs of three or more dots, and `%` become `%XX`.
    """
    return _UNFIT.sub(lambda unfit: "".join(f"%{ord(sign):02X}" for sign in unfit.group()), company)
