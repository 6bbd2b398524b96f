from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lpm_stream.delivery.database import CompanyDatabase, open_database
from lpm_stream.feed.spec import FeedSpec
from lpm_stream_tests.example import SPEC


@dataclass(frozen=True)
class Place:
    """Where a company's database of some kind is, or is to be."""

    kind: str
    url: str

    def open(self, company: str = "A", spec: FeedSpec = SPEC) -> CompanyDatabase:
        return open_database(spec, company, self.url)


@pytest.fixture(params=["sqlite", "postgresql", "tsql", "pyodbc", "mssql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for a database of each kind in turn.

    `tsql` is what is written for SQL Server, executed by PostgreSQL, and `pyodbc` the same through the driver that
    has no bulk copy; `mssql` is a SQL Server.
    """
    match request.param:
        case "sqlite":
            return Place("sqlite", f"sqlite:///{tmp_path / 'companies' / 'A.db'}")
        case "postgresql":
            return Place("postgresql", request.getfixturevalue("postgresql_url"))
        case "tsql":
            return Place("mssql", request.getfixturevalue("tsql")("mssqlpython"))
        case "pyodbc":
            return Place("mssql", request.getfixturevalue("tsql")("pyodbc"))
        case _:
            return Place("mssql", request.getfixturevalue("mssql_url"))


@pytest.fixture
def database(place: Place) -> Iterator[CompanyDatabase]:
    """A database of company A, of each kind in turn."""
    opened = place.open()
    yield opened
    opened.close()
