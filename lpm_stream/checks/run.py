"""Runs checks."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from lpm_stream.checks.control import latency_slo, not_parked, nothing_quarantined
from lpm_stream.checks.freshness import fresh
from lpm_stream.checks.legacy import complete_against_legacy, sooner_than_legacy
from lpm_stream.checks.result import ON_FILES, Result, check_names
from lpm_stream.control import registry
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.checks import CheckName
from lpm_stream.stream import Stream

if TYPE_CHECKING:
    from lpm_stream.legacy.report import Reconciliation

Compared = Callable[["Sequence[Reconciliation]"], None]
Check = Callable[[Stream, Sequence[str], datetime], Iterator[Result]]


def _complete_against_source(stream: Stream, companies: Sequence[str], now: datetime) -> Iterator[Result]:
    from lpm_stream.checks.source import complete_against_source  # noqa: PLC0415 - it brings DuckDB

    return complete_against_source(stream, companies, now)


_CHECKS: Mapping[CheckName, Check] = MappingProxyType(
    {
        "not_parked": not_parked,
        "nothing_quarantined": nothing_quarantined,
        "fresh": fresh,
        "latency_slo": latency_slo,
        "complete_against_legacy": complete_against_legacy,
        "sooner_than_legacy": sooner_than_legacy,
        "complete_against_source": _complete_against_source,
    }
)


def run_checks(
    stream: Stream,
    companies: Collection[str] | None = None,
    names: Collection[str] | None = None,
    compared: Compared | None = None,
) -> Iterator[Result]:
    """Runs checks, the cheap ones first. The legacy files that are due are compared before the checks on them.

    Args:
        stream: the feed with its parts.
        companies: of which companies; of all registered ones if None.
        names: which checks; all of the feed if None.
        compared: told of the files that were compared.

    Yields:
        A result for each check and company.

    Raises:
        LpmStreamError: if there is no such company or check, or something cannot be read without which a check
            can say nothing; the results before it stand.
    """
    chosen = chosen_companies(stream, companies)
    known = check_names(stream.spec)
    if unknown := sorted(set(names or ()) - set(known)):
        raise LpmStreamError(f"feed {stream.spec.name} has no check {unknown[0]!r}: choose of {', '.join(known)}")
    wanted = [name for name in known if chosen and (names is None or name in names)]
    on_files = [name for name in wanted if name in ON_FILES]
    for name in wanted:
        if name in on_files[:1]:
            done = _compare_files(stream, chosen)
            if compared:
                compared(done)
        yield from _CHECKS[name](stream, chosen, datetime.now(UTC))


def _compare_files(stream: Stream, companies: Collection[str]) -> "Sequence[Reconciliation]":
    from lpm_stream.checks.files import compare_files  # noqa: PLC0415 - it brings DuckDB

    return compare_files(stream, companies)


def chosen_companies(stream: Stream, companies: Collection[str] | None) -> list[str]:
    """These companies, or all registered ones, sorted.

    Raises:
        LpmStreamError: if one is not registered.
    """
    registered = registry.registered(stream.store, stream.spec.name)
    if companies is None:
        return registered
    if unknown := sorted(set(companies) - set(registered)):
        raise LpmStreamError(f"company {unknown[0]!r} is not registered; lpm-stream companies list shows who is")
    return sorted(set(companies))
