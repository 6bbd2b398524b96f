"""The kinds of company database that the simulation knows."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lpm_stream.delivery.sqlite import SqliteDatabase, SqliteTransaction


@dataclass(frozen=True)
class Databases:
    """One kind.

    Attributes:
        database: the class whose transactions have boundaries.
        transaction: the class of these.
        url: where the database of a company is: by the life's directory, and the company's number in it.
    """

    database: type
    transaction: type
    url: Callable[[Path, int], str]


@contextmanager
def _sqlite() -> Iterator[Databases]:
    yield Databases(
        SqliteDatabase, SqliteTransaction, lambda home, number: f"sqlite:///{home}/companies/{number}.db"
    )


KINDS: Mapping[str, Callable[[], AbstractContextManager[Databases]]] = {"sqlite": _sqlite}
