"""What a company may not get does not get into its database.

Which columns its table has is changed only by whoever opens the database, in one transaction, and never by one who
knows less of the registry than another before: the database remembers the generation of the entitlements. What was
open meanwhile notices by the table's columns that it is out of date.
"""

from collections.abc import Collection, Sequence
from typing import Any

import polars as pl

from lpm_stream.errors import TargetFaultError
from lpm_stream.feed.spec import FeedSpec


class EntitlementsChangedError(TargetFaultError):
    """The company's entitlements have changed since the registry was asked: ask again, and open it anew.

    Attributes:
        stored: the generation that the database has, 0 if that was not looked at.
    """

    def __init__(self, place: str, stored: int = 0) -> None:
        remedy = "; if they have not, the control store is an older copy: lpm-stream companies confirm"
        super().__init__(
            f"database {place}: the company's entitlements have just changed{remedy if stored else ''}"
        )
        self.stored = stored


def entitled(spec: FeedSpec, rows: pl.DataFrame, stored: Collection[str], place: str) -> pl.DataFrame:
    """Rows without the columns that the company may not get.

    Args:
        spec: the feed as the company gets it.
        rows: contract columns, and others.
        stored: the columns of the table that they go to.
        place: the database, for people.

    Raises:
        EntitlementsChangedError: if the table is not one of these entitlements.
    """
    names = set(stored)
    if not names.isdisjoint(spec.withheld) or not names.issuperset(spec.column_names):
        raise EntitlementsChangedError(place)
    return rows.drop(spec.withheld, strict=False) if spec.withheld else rows


def require_newest(generation: int, rows: Sequence[Sequence[Any]], place: str) -> int:
    """Keeps an older view of the registry from having its way.

    Args:
        generation: of the entitlements at hand.
        rows: what the database remembers: the generation that it was opened with last, or nothing.
        place: the database, for people.

    Returns:
        That generation, 0 if there is none.

    Raises:
        EntitlementsChangedError: if it is a newer one.
    """
    stored: int = rows[0][0] if rows else 0
    if generation < stored:
        raise EntitlementsChangedError(place, stored)
    return stored
