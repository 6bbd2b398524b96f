"""Whether a company's table tells rows apart by the contract's key."""

from collections.abc import Collection

from lpm_stream.feed.spec import FeedSpec


def key_problems(spec: FeedSpec, stored: Collection[str]) -> list[str]:
    """What keeps the table from holding the contract's rows: one sentence if its key is another, else nothing.

    Args:
        spec: the feed.
        stored: the columns of the table's primary key. Their order is all one.
    """
    if set(stored) == set(spec.primary_key):
        return []
    return [f"its key is {', '.join(stored) or 'none'}, the contract says {', '.join(spec.primary_key)}"]
