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


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for a database of each kind in turn."""
    if request.param == "sqlite":
        return Place("sqlite", f"sqlite:///{tmp_path / 'companies' / 'A.db'}")
    return Place("postgresql", request.getfixturevalue("postgresql_url"))


@pytest.fixture
def database(place: Place) -> Iterator[CompanyDatabase]:
    """A database of company A, of each kind in turn."""
    opened = place.open()
    yield opened
    opened.close()
