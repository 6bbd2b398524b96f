"""Keeps the indexes of a company's table in step with what the feed declares."""

import logging
from typing import Protocol

from lpm_stream.delivery.session import Session

log = logging.getLogger(__name__)


class IndexedTables(Protocol):
    """The statements about indexes, for one kind of database.

    Attributes:
        name: the company's table.
        indexes: name to columns of those that it is to have.
        withheld_indexes: names of those that it must not have.
    """

    name: str
    indexes: dict[str, tuple[str, ...]]
    withheld_indexes: list[str]

    @property
    def select_indexes(self) -> str:
        """The names of the indexes that the table has."""
        ...

    def create_index(self, index: str) -> str:
        """Makes one of `indexes`."""
        ...

    def drop_index(self, index: str) -> str:
        """Drops one."""
        ...


def make_missing_indexes(tables: IndexedTables, session: Session) -> None:
    """Makes the declared indexes that the table lacks. Others are the customer's own, and left alone."""
    there = _names(tables, session)
    for index in tables.indexes:
        if index not in there:
            session.run(tables.create_index(index))
            log.info("%s: index %s made on table %s", session.place, index, tables.name)


def drop_withheld_indexes(tables: IndexedTables, session: Session) -> None:
    """Drops declared indexes on columns that the company may not get any more: these could not be dropped else."""
    for index in _names(tables, session) & set(tables.withheld_indexes):
        session.run(tables.drop_index(index))
        log.info("%s: index %s dropped from table %s", session.place, index, tables.name)


def _names(tables: IndexedTables, session: Session) -> set[str]:
    return {name for (name,) in session.query(tables.select_indexes)}
