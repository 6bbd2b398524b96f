"""The companies that are served: where their databases are, what they may get, and how they stand."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from lpm_stream.control import audit
from lpm_stream.control.company import Company, said
from lpm_stream.control.company_rows import later_than_all, values_of
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import backfills, companies
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.entitlement import EVERYTHING, Entitlement
from lpm_stream.feed.spec import EVERY_GROUP
from lpm_stream.settings import Settings, safe_file_name

_SERVED = companies.c.state != "offboarding"
_SELECT_SERVED = sa.select(
    *(companies.c[name] for name in ("company", "database_url", "feeds", "groups", "generation", "state"))
).where(_SERVED)
Revision = tuple[datetime | None, int]


@dataclass(frozen=True)
class Served:
    """A company as the drains see it.

    Attributes:
        company: its id.
        database: a URL, or a reference to one, see `lpm_stream.database_url`.
        entitlement: what of a feed it may get.
        paused: whether its changes wait in the hub.
    """

    company: str
    database: str
    entitlement: Entitlement = EVERYTHING
    paused: bool = False


def register(store: ControlStore, company: str, database_url: str | None = None) -> bool:
    """Registers a company that gets every column of every feed; False if it was registered already.

    Args:
        store: the control store.
        company: its id, any text of 1 to 450 characters without NUL.
        database_url: SQLAlchemy URL of its database, or a reference; None: from the settings' template.

    Raises:
        LpmStreamError: if the id cannot be one.
    """
    try:
        checked = Company(id=company, groups=(EVERY_GROUP,))
    except ValidationError as error:
        raise LpmStreamError(said(error)) from None
    with store.write() as connection:
        if connection.execute(sa.select(companies).where(companies.c.company == company)).first():
            return False
        now = later_than_all(connection)
        values = values_of(checked) | dict.fromkeys(("registered_at", "onboarded_at", "changed_at"), now)
        connection.execute(companies.insert().values(values | {"database_url": database_url}))
        audit.record(connection, "register", company, {"own_database": database_url is not None})
    return True


def registered(store: ControlStore, feed: str | None = None) -> list[str]:
    """The ids of all companies that are served, of those that receive a feed if one is given, sorted."""
    with store.read() as connection:
        rows = connection.execute(sa.select(companies.c.company, companies.c.feeds).where(_SERVED)).all()
    return sorted(row.company for row in rows if _receives(row, feed))


def entitlements(store: ControlStore, feed: str) -> dict[str, Entitlement]:
    """What each company that receives a feed may get of it, by id."""
    columns = (companies.c.company, companies.c.feeds, companies.c.groups, companies.c.generation)
    with store.read() as connection:
        rows = connection.execute(sa.select(*columns).where(_SERVED)).all()
    groups = {text: tuple(json.loads(text)) for text in {row.groups for row in rows}}
    return {row.company: Entitlement(groups[row.groups], row.generation) for row in rows if _receives(row, feed)}


def served(store: ControlStore, settings: Settings, feed: str | None = None) -> dict[str, Served]:
    """The companies that are served, of those that receive a feed if one is given, by id."""
    with store.read() as connection:
        rows = connection.execute(_SELECT_SERVED).all()
    groups = {text: tuple(json.loads(text)) for text in {row.groups for row in rows}}
    return {row.company: _as_served(row, groups[row.groups], settings) for row in rows if _receives(row, feed)}


def served_now(store: ControlStore, settings: Settings, feed: str, company: str) -> Served | None:
    """One company as `served` has it, None if it is not served: one look at one row, by its key."""
    with store.read() as connection:
        row = connection.execute(_SELECT_SERVED.where(companies.c.company == company)).one_or_none()
    if row is None or not _receives(row, feed):
        return None
    return _as_served(row, tuple(json.loads(row.groups)), settings)


def paused(store: ControlStore) -> frozenset[str]:
    """The companies whose changes wait in the hub because somebody wants them to."""
    query = sa.select(companies.c.company).where(companies.c.state == "paused")
    with store.read() as connection:
        return frozenset(connection.execute(query).scalars())


def slos(store: ControlStore) -> dict[str, float]:
    """Company to the seconds that are promised to it, of those to whom it is something else than the feed says."""
    query = sa.select(companies.c.company, companies.c.slo_seconds).where(companies.c.slo_seconds.is_not(None))
    with store.read() as connection:
        return {row.company: row.slo_seconds for row in connection.execute(query)}


def database_place(company: str, database: str | None, settings: Settings) -> str:
    """Where a company's database is: a URL, or a reference to one."""
    if database is None:
        return settings.database_url(company)
    return database.replace("{company}", safe_file_name(company))


def database_urls(store: ControlStore, settings: Settings, feed: str | None = None) -> dict[str, str]:
    """The place of each served company's database."""
    return {company: one.database for company, one in served(store, settings, feed).items()}


def revision(store: ControlStore) -> Revision:
    """What differs as soon as anything in the registry does: cheaper than reading it."""
    query = sa.select(sa.func.max(companies.c.changed_at), sa.func.count())
    with store.read() as connection:
        newest, count = connection.execute(query.select_from(companies)).one()
    return newest, count


def to_load(store: ControlStore, feed: str) -> list[str]:
    """Companies that were granted columns, or given another database, and were not loaded since."""
    loaded = sa.select(sa.func.max(backfills.c.generation)).where(
        backfills.c.feed == feed, backfills.c.company == companies.c.company
    )
    lacks = companies.c.load_generation > sa.func.coalesce(loaded.scalar_subquery(), 0)
    with store.read() as connection:
        rows = connection.execute(sa.select(companies.c.company, companies.c.feeds).where(_SERVED, lacks)).all()
    return sorted(row.company for row in rows if _receives(row, feed))


def to_apply(store: ControlStore) -> list[str]:
    """Companies whose tables are not known to have the columns of their entitlements, and no others, sorted."""
    lags = companies.c.applied_generation < companies.c.generation
    query = sa.select(companies.c.company).where(_SERVED, companies.c.onboarded_at.is_not(None), lags)
    with store.read() as connection:
        return sorted(connection.execute(query).scalars())


def _receives(row: Any, feed: str | None) -> bool:
    return feed is None or row.feeds == "[]" or feed in json.loads(row.feeds)


def _as_served(row: Any, groups: tuple[str, ...], settings: Settings) -> Served:
    place = database_place(row.company, row.database_url, settings)
    return Served(row.company, place, Entitlement(groups, row.generation), row.state == "paused")
