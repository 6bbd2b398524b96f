"""Dagster partition keys as company ids."""

from collections.abc import Iterable

import dagster as dg

from lpm_stream.control import entries, registry
from lpm_stream.errors import LpmStreamError
from lpm_stream.partition import company_id, partition_key
from lpm_stream.stream import Stream

__all__ = [
    "add_partition",
    "by_partition_key",
    "company_id",
    "company_of",
    "gone_partitions",
    "new_partitions",
    "partition_key",
]


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


def add_partition(stream: Stream, company: str, instance: dg.DagsterInstance | None = None) -> str:
    """Makes a company a partition; returns what it did, for people.

    Args:
        stream: the feed with its parts.
        company: the company's id.
        instance: Dagster's; by default that of DAGSTER_HOME.
    """
    key, name = partition_key(company), stream.spec.company_column
    (instance or dg.DagsterInstance.get()).add_dynamic_partitions(name, [key])
    return f"{key!r} is a partition of {name}"


def new_partitions(stream: Stream, instance: dg.DagsterInstance) -> list[str]:
    """Partition keys of registered companies that Dagster does not know yet."""
    known = set(instance.get_dynamic_partitions(stream.spec.company_column))
    return [
        key for key in by_partition_key(registry.registered(stream.store, stream.spec.name)) if key not in known
    ]


def gone_partitions(stream: Stream, instance: dg.DagsterInstance) -> list[str]:
    """Partition keys of companies that are not served any more."""
    known = set(instance.get_dynamic_partitions(stream.spec.company_column))
    gone = (entry for entry in entries.read_all(stream.store) if entry.company.state == "offboarding")
    return sorted(known.intersection(partition_key(entry.company.id) for entry in gone))
