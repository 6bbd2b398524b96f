"""What the schema of a company's database is kept in step through, whatever kind of server it is on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Session(Protocol):
    """What executes statements, all in one transaction; `place` names the database for people."""

    place: str

    def run(self, statement: str) -> None:
        """Executes a statement without a result."""
        ...

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Executes a statement and returns its rows."""
        ...


@dataclass(frozen=True)
class StoredColumn:
    """A column as it is in the database.

    Attributes:
        type: as the database's kind spells it.
        not_null: whether it refuses NULL.
        needed: whether it refuses rows that say nothing about it.
    """

    type: str
    not_null: bool
    needed: bool
