"""Dagster partition keys as company ids."""

from collections.abc import Iterable

import dagster as dg

from lpm_stream.control import registry
from lpm_stream.errors import LpmStreamError
from lpm_stream.partition import partition_key
from lpm_stream.stream import Stream

__all__ = ["by_partition_key", "company_of", "new_partitions", "partition_key"]


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


def new_partitions(stream: Stream, instance: dg.DagsterInstance) -> list[str]:
    """Partition keys of registered companies that Dagster does not know yet."""
    known = set(instance.get_dynamic_partitions(stream.spec.company_column))
    return [key for key in by_partition_key(registry.registered(stream.store)) if key not in known]
