"""Finds the rows that a company's table refuses, so that their neighbours can be written."""

from collections.abc import Callable
from contextlib import suppress

import polars as pl

from lpm_stream.delivery.database import CompanyDatabase, Transaction
from lpm_stream.errors import RowFaultError, TargetFaultError

Put = Callable[[Transaction, pl.DataFrame], None]

_FEW, _MOST_REFUSED = 10, 100  # rows of one transaction; more than a few must be less than half of them


class _UndoError(Exception):
    """Rolls a trial back."""


def refused_rows(
    database: CompanyDatabase, rows: pl.DataFrame, put: Put, fault: RowFaultError, most: int | None = None
) -> list[tuple[pl.DataFrame, str]]:
    """The rows that the table does not take, each with the reason.

    Args:
        database: the company's.
        rows: what it refused as a whole.
        put: how they are written.
        fault: what it said.
        most: how many it may refuse; None: as few as rows that come by the stream may be.

    Raises:
        TargetFaultError: if there are so many that the table is the problem, or none on its own.
    """
    if most is None:
        most = min(_MOST_REFUSED, max(_FEW, rows.height // 2))
    found = _search(database, rows, put, most)
    if not found:
        raise TargetFaultError(
            f"the table refuses rows together that it takes one by one: {fault.rule}"
        ) from fault
    return [(row, str(one)) for row, one in found]


def _search(
    database: CompanyDatabase, rows: pl.DataFrame, put: Put, most: int
) -> list[tuple[pl.DataFrame, RowFaultError]]:
    """By halving what fails."""
    try:
        with suppress(_UndoError), database.transaction() as transaction:
            put(transaction, rows)
            raise _UndoError
    except RowFaultError as fault:
        if rows.height == 1:
            return [(rows, fault)]
    else:
        return []
    half = rows.height // 2
    found = _search(database, rows.head(half), put, most)
    found += _search(database, rows.tail(-half), put, most - len(found))
    if len(found) > most:
        raise TargetFaultError(f"the table refuses too many rows to set each aside, such as: {found[0][1].rule}")
    return found
