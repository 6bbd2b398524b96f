"""What of a feed a company may get."""

from dataclasses import dataclass

from lpm_stream.feed.spec import EVERY_GROUP, FeedSpec


@dataclass(frozen=True)
class Entitlement:
    """The column groups that a company is entitled to.

    Attributes:
        groups: their names; `base` is always among what a company gets.
        generation: grows with each change of the groups. A company's database remembers the largest that it was
            opened with, so that nobody writes to it with an older view.
    """

    groups: tuple[str, ...] = (EVERY_GROUP,)
    generation: int = 0

    def contract(self, spec: FeedSpec) -> FeedSpec:
        """The feed as the company gets it."""
        return spec.for_groups(self.groups)


EVERYTHING = Entitlement()
