"""A company's table that refuses one row in about 100, as a customer's own trigger would."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream_tests.delivery import databases
from torture.world import World

_TABLE = "tdr"
_CONDITION = "NEW.caller_number LIKE '%77'"


def refuse(world: World, company: str) -> None:
    """Refuses such rows from now on."""
    with _opened(world, company) as database:
        _refuse(database, _CONDITION)


def refuse_known(world: World, company: str) -> None:
    """Refuses those that there may be by now, and takes new ones."""
    with _opened(world, company) as database:
        [(newest,)] = databases.query(database, f"SELECT max(tdr_id) FROM {_TABLE}")
        _refuse(database, f"{_CONDITION} AND NEW.tdr_id <= '{newest}'")


def accept_all(world: World, company: str) -> None:
    """Takes all rows again."""
    with _opened(world, company) as database:
        databases.appease(database, _TABLE)


def _refuse(database: CompanyDatabase, condition: str) -> None:
    databases.appease(database, _TABLE)
    databases.picky(database, condition, _TABLE)


@contextmanager
def _opened(world: World, company: str) -> Iterator[CompanyDatabase]:
    with closing(world.stream.open_database(world.stream.served(company))) as database:
        yield database
