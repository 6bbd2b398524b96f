"""Dagster partition keys as company ids."""

from collections.abc import Iterable

from lpm_stream.errors import LpmStreamError
from lpm_stream.partition import partition_key

__all__ = ["by_partition_key", "company_of", "partition_key"]


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
