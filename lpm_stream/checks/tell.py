"""Tells people of failed checks: each failure is an incident, its own or that of what explains it."""

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType

from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.look import look
from lpm_stream.alerts.raised import CHECK_FAILED, PUBLISHING_STOPPED, check_came_out
from lpm_stream.checks.result import Result
from lpm_stream.control import registry
from lpm_stream.feed.checks import CheckName
from lpm_stream.stream import Stream

_PARKED = frozenset({"parked", "gap", "quarantine_full"})
_STOPPED = frozenset({PUBLISHING_STOPPED, "nobody_publishes", "nobody_delivers", "hub_unreadable", "undelivered"})

# The causes, of the company or of the whole feed, that are told of anyway and from which a failure follows.
_EXPLAINED_BY: Mapping[CheckName, frozenset[str]] = MappingProxyType(
    {
        "not_parked": _PARKED,
        "nothing_quarantined": frozenset({"quarantine_full"}),
        "fresh": _PARKED | _STOPPED,
        "latency_slo": _PARKED | _STOPPED,
        "complete_against_legacy": _PARKED | _STOPPED,
        "sooner_than_legacy": _PARKED | _STOPPED,
        "complete_against_source": frozenset(),
    }
)


class Teller:
    """Notes how checks of one stream come out, for the alerts.

    A failure is a cause of its own, be it an error or a warning, unless another cause explains it: one trouble is
    one incident. What was told of already stays until the check passes, whatever else comes.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def tell(self, result: Result) -> None:
        """Notes one result.

        Raises:
            LpmStreamError: if the control store cannot be used.
        """
        failure = None if result.passed else _failure(result)
        if failure is not None and not self._is_told(result) and self._is_explained(result):
            return
        found = result.description if result.failure else ""
        check_came_out(
            self._stream.store, self._stream.spec.name, result.name, result.company, failure, found=found
        )

    @cached_property
    def _causes(self) -> tuple[Cause, ...]:
        return look(self._stream).causes

    @cached_property
    def _paused(self) -> frozenset[str]:
        return registry.paused(self._stream.store)

    def _is_told(self, result: Result) -> bool:
        mine = (f"{CHECK_FAILED}:{result.name}", result.company)
        return any((cause.kind, cause.company) == mine for cause in self._causes)

    def _is_explained(self, result: Result) -> bool:
        kinds = _EXPLAINED_BY[result.name]
        if kinds >= _PARKED and result.company in self._paused:
            return True  # somebody wants it to wait: that is no trouble, and explains what parking does
        return any(cause.sort in kinds and cause.company in {"", result.company} for cause in self._causes)


def _failure(result: Result) -> str:
    """What is told as news whenever it changes."""
    failure = result.failure or result.description
    return failure if result.severity == "ERROR" else f"(a warning) {failure}"
