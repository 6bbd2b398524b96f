"""What `status --json` showed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Seen:
    """What it showed at one moment.

    Attributes:
        feed: all of it, as `lpm_stream.status.Status` describes it.
    """

    feed: Mapping[str, Any]

    def company(self, company: str) -> Mapping[str, Any]:
        """What it showed of one company; nothing if it does not know it."""
        return next((one for one in self.feed["companies"] if one["company"] == company), {})

    @property
    def parked(self) -> Mapping[str, str]:
        """Company to reason, of those that are parked."""
        return {one["company"]: one["parked"]["reason"] for one in self.feed["companies"] if one["parked"]}

    def is_parked(self, company: str, reason: str = "") -> bool:
        """Whether a company is parked, and its reason says that."""
        return company in self.parked and reason in self.parked[company]

    def workers(self, role: str) -> list[str]:
        """Who is at work as `publisher` or `deliverer`."""
        names: str | None = self.feed[role]
        return names.split(", ") if names else []

    def says(self, problem: str) -> bool:
        """Whether it names such a problem of the table or the hub."""
        return any(problem in one for one in self.feed["problems"])
