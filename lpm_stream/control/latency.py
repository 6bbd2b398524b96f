"""Latencies as a histogram that adds up: over batches, minutes, companies."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_GROWTH = 1.02  # a bucket's upper bound over its lower: quantiles are right to 2 %
_SMALLEST = 0.001  # seconds


@dataclass
class Latencies:
    """How many changes took how long, commit to applied.

    Attributes:
        buckets: number of a bucket to the changes in it.
        longest: seconds that the slowest took.
        waited: those of the buckets that waited for a company that was parked or paused.
    """

    buckets: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0
    waited: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float, changes: int, *, waited: bool = False) -> None:
        """Counts changes that took that long; a clock that runs behind the source's counts as no time."""
        seconds = max(seconds, _SMALLEST)
        bucket = math.ceil(math.log(seconds / _SMALLEST, _GROWTH))
        self.buckets[bucket] += changes
        if waited:
            self.waited[bucket] += changes
        self.longest = max(self.longest, seconds)

    def merge(self, other: "Latencies") -> None:
        """Adds another's counts."""
        self.buckets.update(other.buckets)
        self.waited.update(other.waited)
        self.longest = max(self.longest, other.longest)

    def since(self, earlier: "Latencies") -> "Latencies":
        """What was counted after an earlier state of the same counts."""
        return self._of(self.buckets - earlier.buckets, self.waited - earlier.waited)

    def streamed(self) -> "Latencies":
        """What did not wait for a company that was parked or paused."""
        return self._of(self.buckets - self.waited, Counter())

    def _of(self, buckets: Counter[int], waited: Counter[int]) -> "Latencies":
        longest = max((_SMALLEST * _GROWTH**bucket for bucket in buckets), default=0.0)
        return Latencies(buckets, min(longest, self.longest), waited)

    @property
    def changes(self) -> int:
        """How many changes were counted."""
        return self.buckets.total()

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share of the changes was applied; None if there were none."""
        wanted = share * self.changes
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return min(_SMALLEST * _GROWTH**bucket, self.longest)
        return None

    def summary(self) -> dict[str, float | None]:
        """p50, p95, p99 and max in seconds, to the millisecond."""
        quantiles = {"p50": self.quantile(0.5), "p95": self.quantile(0.95), "p99": self.quantile(0.99)}
        longest = self.longest if self.changes else None
        return {name: _rounded(value) for name, value in {**quantiles, "max": longest}.items()}

    def to_json(self) -> str:
        """For the ledger."""
        waited = {"waited": self.waited} if self.waited else {}  # seldom: an empty one would be in every row
        return json.dumps({"longest": self.longest, "buckets": self.buckets} | waited)

    @classmethod
    def from_json(cls, text: str) -> "Latencies":
        """From the ledger."""
        content = json.loads(text)
        return cls(_counter(content["buckets"]), content["longest"], _counter(content.get("waited", {})))


def _counter(content: Mapping[str, int]) -> Counter[int]:
    return Counter({int(bucket): changes for bucket, changes in content.items()})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
