"""Company ids as Dagster partition keys."""

import re
from collections.abc import Iterable

from lpm_stream.errors import LpmStreamError

# What Dagster refuses in a partition key ("..." is its notation of a range), and the escape sign itself.
_UNFIT = re.compile(r"\.{3,}|[%\x00-\x1f\x7f]+")


def partition_key(company: str) -> str:
    """The partition key of a company: its id wherever Dagster takes that, never the same for two ids.

    Control characters, runs of three or more dots, and `%` become `%XX`.
    """
    return _UNFIT.sub(lambda unfit: "".join(f"%{ord(sign):02X}" for sign in unfit.group()), company)


def company_of(companies: Iterable[str], key: str) -> str:
    """The company of a partition key.

    Raises:
        LpmStreamError: if none of these companies has it.
    """
    company = by_partition_key(companies).get(key)
    if company is None:
        raise LpmStreamError(
            f"no registered company has the partition key {key!r}: register it with lpm-stream companies add"
        )
    return company


def by_partition_key(companies: Iterable[str]) -> dict[str, str]:
    """Partition key to company id."""
    return {partition_key(company): company for company in companies}
