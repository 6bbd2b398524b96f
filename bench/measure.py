"""One measured figure."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A figure, and the goal that it is held against.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: of the figure.
        limit: the goal's number, None if there is no goal.
        better: whether the goal is reached above or below its number.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    better: Literal["above", "below"] = "below"

    @property
    def text(self) -> str:
        """The figure for people."""
        return f"{self.value:,.0f} {self.unit}" if abs(self.value) >= 100 else f"{self.value:.3g} {self.unit}"

    @property
    def goal(self) -> str:
        """The goal for people."""
        if self.limit is None:
            return ""
        return f"{'at least' if self.better == 'above' else 'under'} {self.limit:,g} {self.unit}"

    @property
    def verdict(self) -> str:
        """Whether the goal is reached."""
        if self.limit is None:
            return ""
        reached = self.value >= self.limit if self.better == "above" else self.value < self.limit
        return "reached" if reached else "MISSED"
