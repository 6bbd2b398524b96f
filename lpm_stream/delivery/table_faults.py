"""What can be wrong with a company's table, said alike of every kind of database."""

from collections.abc import Collection, Sequence

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


def require_own(company: str, owners: Sequence[Sequence[str]], place: str) -> None:
    """Makes sure that a database is the company's own.

    Args:
        company: its id.
        owners: the companies that the database holds watermarks of, a row each.
        place: the database, for people.

    Raises:
        TargetFaultError: if it is another company's.
    """
    if others := {owner for (owner,) in owners} - {company}:
        raise TargetFaultError(
            f"database {place} belongs to company {min(others)!r}, not {company!r}: "
            f"correct the database of one of the two"
        )


def lost_table(spec: FeedSpec, place: str) -> str:
    """What is wrong with a database that has a watermark and no table, and what to do."""
    return (
        f"database {place} has lost its table {spec.name}: restore it, or build it anew "
        f"with lpm-stream backfill COMPANY --replace"
    )


def misfit(spec: FeedSpec, place: str, problems: Sequence[str]) -> str | None:
    """What keeps a table from holding the contract's rows, and what to do; None if there are no problems."""
    if not problems:
        return None
    return (
        f"table {spec.name} in {place} does not fit the contract: {'; '.join(problems)}; build it "
        f"anew with lpm-stream backfill COMPANY --replace"
    )
