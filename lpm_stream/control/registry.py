"""The companies that are served, and where their databases are."""

import re
from datetime import UTC, datetime

import sqlalchemy as sa

from lpm_stream.control import audit
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import companies
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.spec import LONGEST_COMPANY_ID
from lpm_stream.settings import Settings

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # arguments that are not UTF-8 reach Python as lone surrogates


def register(store: ControlStore, company: str, database_url: str | None = None) -> bool:
    """Registers a company; False if it was registered already.

    Args:
        store: the control store.
        company: its id, any text of 1 to 450 characters without NUL.
        database_url: SQLAlchemy URL of its database; None: from the settings' template.

    Raises:
        LpmStreamError: if the id cannot be one.
    """
    if not 0 < len(company) <= LONGEST_COMPANY_ID or _NOT_TEXT.search(company):
        raise LpmStreamError(
            f"company id {company[:40]!r}: must be 1 to {LONGEST_COMPANY_ID} characters of Unicode, without NUL"
        )
    with store.write() as connection:
        if connection.execute(sa.select(companies).where(companies.c.company == company)).first():
            return False
        connection.execute(
            companies.insert().values(company=company, database_url=database_url, registered_at=datetime.now(UTC))
        )
        audit.record(connection, "register", company, {"own_database": database_url is not None})
    return True


def registered(store: ControlStore) -> list[str]:
    """The ids of all registered companies, sorted."""
    with store.read() as connection:
        return sorted(connection.execute(sa.select(companies.c.company)).scalars())


def database_urls(store: ControlStore, settings: Settings) -> dict[str, str]:
    """The URL of each registered company's database."""
    with store.read() as connection:
        rows = connection.execute(sa.select(companies.c.company, companies.c.database_url)).all()
    return {row.company: row.database_url or settings.database_url(row.company) for row in rows}
