"""Keeps the indexes of a company's table in step with what the feed declares.

They are ours if their names begin as ours do; others are the customer's own, and left alone.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from lpm_stream.delivery.session import Session
from lpm_stream.errors import TargetFaultError

log = logging.getLogger(__name__)


class IndexedTables(Protocol):
    """The statements about indexes, for one kind of database.

    Attributes:
        name: the company's table.
        indexes: name to columns of those that it is to have.
    """

    name: str
    indexes: dict[str, tuple[str, ...]]

    @property
    def select_indexes(self) -> str:
        """The table's indexes: name, column; a row for each column, in the index's order.

        Where case does not tell names apart, they are in lower case, as ours are.
        """
        ...

    def create_index(self, index: str) -> str:
        """Makes one of `indexes`."""
        ...

    def drop_index(self, index: str) -> str:
        """Drops one."""
        ...


def index_prefix(feed: str) -> str:
    """How the names of a feed's declared indexes begin."""
    return f"ix_{feed}_"


def lacking_indexes(tables: IndexedTables, session: Session) -> list[str]:
    """The declared indexes that the table lacks, or has with other columns."""
    there = _stored(tables, session)
    return [index for index, columns in tables.indexes.items() if there.get(index) != list(columns)]


def make_indexes(
    tables: IndexedTables, lacking: Sequence[str], transaction: Callable[[], AbstractContextManager[Session]]
) -> None:
    """Makes indexes, each in a transaction of its own.

    Nothing else waits for that, and one that cannot be made keeps nobody's rows from being delivered.
    """
    for index in lacking:
        try:
            with transaction() as session:
                if index in _stored(tables, session):
                    session.run(tables.drop_index(index))
                session.run(tables.create_index(index))
        except TargetFaultError as error:
            log.warning("index %s is not made: %s", index, error)
        else:
            log.info("%s: index %s made on table %s", session.place, index, tables.name)


def drop_indexes_on(tables: IndexedTables, session: Session, columns: Collection[str]) -> list[str]:
    """Drops our indexes on columns that are to be altered or dropped, which they would not let happen.

    Returns:
        Their names.
    """
    prefix = index_prefix(tables.name)
    ours = [
        name
        for name, indexed in _stored(tables, session).items()
        if name.startswith(prefix) and not set(columns).isdisjoint(indexed)
    ]
    for index in ours:
        session.run(tables.drop_index(index))
        log.info("%s: index %s dropped from table %s", session.place, index, tables.name)
    return ours


def _stored(tables: IndexedTables, session: Session) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for index, column in session.query(tables.select_indexes):
        found[index].append(column)
    return found
