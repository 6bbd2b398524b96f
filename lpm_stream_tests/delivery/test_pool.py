from collections.abc import Iterator

import pytest

from lpm_stream.delivery import pool
from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream.delivery.pool import DatabasePool
from lpm_stream.feed.entitlement import EVERYTHING


class Database:
    """Only knows whether it is open."""

    def __init__(self, company: str) -> None:
        self.company = company
        self.is_open = True

    def close(self) -> None:
        assert self.is_open
        self.is_open = False


@pytest.fixture
def opened() -> list[Database]:
    return []


@pytest.fixture
def databases(opened: list[Database]) -> Iterator[DatabasePool]:
    def open_one(place: pool.Place) -> CompanyDatabase:
        opened.append(Database(place[0]))
        return opened[-1]  # type: ignore[return-value] # the pool only closes it

    made = DatabasePool(open_one)
    yield made
    made.close()
    assert not any(database.is_open for database in opened)


def fail(databases: DatabasePool, company: str) -> None:
    with databases.borrow((company, "", EVERYTHING)):
        raise ZeroDivisionError


def test_a_database_is_kept_for_its_next_use(databases, opened):
    for _ in range(3):
        with databases.borrow(("A", "", EVERYTHING)), databases.borrow(("B", "", EVERYTHING)):
            pass
    assert [database.company for database in opened] == ["A", "B"]


def test_after_an_error_it_is_opened_anew(databases, opened):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail(databases, "A")
    assert [database.is_open for database in opened] == [False, False]


def test_the_least_recently_used_are_closed(databases, opened, monkeypatch):
    monkeypatch.setattr(pool, "_KEPT_OPEN", 2)
    for company in ("A", "B", "A", "C", "D"):
        with databases.borrow((company, "", EVERYTHING)):
            pass
    assert {database.company: database.is_open for database in opened} == {
        "A": False,
        "B": False,
        "C": True,
        "D": True,
    }


def test_where_a_company_was_before_is_closed(databases, opened):
    for place in ("here", "there"):
        for company in ("A", "B"):
            with databases.borrow((company, place if company == "A" else "here", EVERYTHING)):
                pass
    assert [(database.company, database.is_open) for database in opened] == [
        ("A", False),
        ("B", True),
        ("A", True),
    ]


def test_what_is_lent_when_the_pool_closes_is_closed_when_it_comes_back(databases, opened):
    with databases.borrow(("A", "", EVERYTHING)):
        databases.close()
        assert opened[0].is_open
    assert not opened[0].is_open
