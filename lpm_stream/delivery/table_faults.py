"""What can be wrong with a company's table, said alike of every kind of database."""

from collections.abc import Collection

from lpm_stream.errors import TargetFaultError
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


def cannot_keep(spec: FeedSpec, place: str, what: str, problem: str) -> TargetFaultError:
    """The error for what a customer has added to the table and its replacement cannot have.

    Args:
        spec: the feed.
        place: the database, for people.
        what: an index, a trigger or a constraint, with its name.
        problem: what the database says.
    """
    return TargetFaultError(
        f"table {spec.name} in {place} is not replaced: the new one cannot have its {what} ({problem}); drop that "
        f"first"
    )
