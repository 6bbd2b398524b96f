"""The companies that are served: where their databases are, what they may get, and how they stand."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from lpm_stream.control import audit
from lpm_stream.control.company import Company
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import backfills, companies
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.entitlement import EVERYTHING, Entitlement
from lpm_stream.feed.spec import EVERY_GROUP
from lpm_stream.settings import Settings, safe_file_name

_SERVED = companies.c.state != "offboarding"
_ACTIONS = MappingProxyType({"active": "resume", "paused": "pause", "offboarding": "remove"})
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


@dataclass(frozen=True)
class Entry:
    """A company in the registry.

    Attributes:
        company: what was said about it.
        registered_at: when it was registered.
        onboarded_at: when its onboarding was finished, None if it was not.
    """

    company: Company
    registered_at: datetime
    onboarded_at: datetime | None


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
        now = _now(connection)
        values = _values(checked) | dict.fromkeys(("registered_at", "onboarded_at", "changed_at"), now)
        connection.execute(companies.insert().values(values | {"database_url": database_url}))
        audit.record(connection, "register", company, {"own_database": database_url is not None})
    return True


def require_new(connection: sa.Connection, company: str) -> None:
    """Makes sure that a company can be onboarded, or its onboarding gone on with.

    Raises:
        LpmStreamError: if it is onboarded already, or another's id differs in upper and lower case only.
    """
    rows = connection.execute(sa.select(companies.c.company, companies.c.state, companies.c.onboarded_at)).all()
    folded = company.casefold()
    for row in rows:
        if row.company == company and row.state != "offboarding" and row.onboarded_at is not None:
            raise LpmStreamError(
                f"company {company!r} is registered already: lpm-stream companies show; to change it, "
                f"lpm-stream companies apply"
            )
        if row.company != company and row.company.casefold() == folded:
            raise LpmStreamError(
                f"company {company!r} differs from {row.company!r}, which is registered, in upper and lower "
                f"case only: is it the same? File systems and databases may take them for one"
            )


def add(connection: sa.Connection, company: Company, generation: int) -> None:
    """Registers a company whose onboarding goes on from here, or takes up one that was offboarded.

    Args:
        connection: a transaction.
        company: what is said about it.
        generation: of its entitlements, larger than any before.

    Raises:
        LpmStreamError: as `require_new` does.
    """
    require_new(connection, company.id)
    granted = {"groups": ", ".join(company.groups), "feeds": ", ".join(company.feeds) or "all"}
    audit.record(connection, "onboard", company.id, granted)
    now = _now(connection)
    values = _values(company) | {"changed_at": now, "generation": generation, "onboarded_at": None}
    mine = companies.c.company == company.id
    known = connection.execute(sa.select(companies.c.state).where(mine)).one_or_none()
    if known is None:
        connection.execute(companies.insert().values(registered_at=now, **values))
        return
    if known.state == "offboarding":
        values["registered_at"] = now  # what came since it was removed was not kept for it
    connection.execute(companies.update().where(mine).values(values))


def generation_for(store: ControlStore, company: Company) -> int:
    """The generation with which an onboarding begins: that of an earlier try, if that was entitled to the same."""
    with store.read() as connection:
        row = connection.execute(sa.select(companies).where(companies.c.company == company.id)).one_or_none()
    same = row is not None and row.state == company.state and tuple(json.loads(row.groups)) == company.groups
    return int(row.generation) if row is not None and same else new_generation()


def new_generation() -> int:
    """A generation for entitlements: milliseconds, which grow even if the control store is an older copy."""
    return int(datetime.now(UTC).timestamp() * 1000)


def finish_onboarding(store: ControlStore, company: str) -> None:
    """Notes that a company is onboarded."""
    with store.write() as connection:
        mine = companies.update().where(companies.c.company == company)
        connection.execute(mine.values(onboarded_at=datetime.now(UTC)))
        audit.record(connection, "onboarded", company, {})


def change(connection: sa.Connection, before: Company, after: Company) -> None:
    """Changes what is known of a company.

    Raises:
        LpmStreamError: if it is not what it was `before`: somebody else was quicker.
    """
    row = connection.execute(sa.select(companies).where(companies.c.company == before.id)).one_or_none()
    if row is None or _company(row) != before:
        raise LpmStreamError(f"company {before.id!r} was changed by somebody else meanwhile: look, and try again")
    values = _values(after) | {"changed_at": _now(connection)}
    if touches_data(before, after):
        values["generation"] = _next_generation(connection, before.id)
    if _needs_load(before, after):
        values["load_generation"] = values["generation"]
    connection.execute(companies.update().where(companies.c.company == before.id).values(**values))
    action = "change" if after.groups == before.groups else "entitlement"
    audit.record(connection, action, before.id, _difference(before, after))


def touches_data(before: Company, after: Company) -> bool:
    """Whether a change concerns a company's database, and not only what is known of it."""
    return (before.groups, before.feeds, before.database) != (after.groups, after.feeds, after.database)


def _needs_load(before: Company, after: Company) -> bool:
    """Whether a change leaves a company with a table that lacks something."""
    groups = EVERY_GROUP not in before.groups and bool(set(after.groups) - set(before.groups))
    feeds = bool(before.feeds) and (not after.feeds or bool(set(after.feeds) - set(before.feeds)))
    return groups or feeds or after.database != before.database


def set_state(store: ControlStore, company: str, state: str) -> bool:
    """Pauses, resumes or offboards a company; False if it was in that state already.

    Raises:
        LpmStreamError: if it is not registered, or offboarded: that one is to be onboarded anew.
    """
    with store.write() as connection:
        row = connection.execute(sa.select(companies).where(companies.c.company == company)).one_or_none()
        if row is None:
            raise LpmStreamError(f"company {company!r} is not registered; lpm-stream companies list shows who is")
        if row.state == state:
            return False
        if row.state == "offboarding":
            raise LpmStreamError(f"company {company!r} is not served any more: lpm-stream companies add")
        mine = companies.update().where(companies.c.company == company)
        connection.execute(mine.values(state=state, changed_at=_now(connection)))
        audit.record(connection, _ACTIONS[state], company, {"state_before": row.state})
    return True


def read(store: ControlStore, company: str) -> Entry:
    """A company.

    Raises:
        LpmStreamError: if it is not registered.
    """
    with store.read() as connection:
        row = connection.execute(sa.select(companies).where(companies.c.company == company)).one_or_none()
    if row is None:
        raise LpmStreamError(f"company {company!r} is not registered; lpm-stream companies list shows who is")
    return Entry(_company(row), row.registered_at, row.onboarded_at)


def read_all(store: ControlStore) -> list[Entry]:
    """All companies, those that are being offboarded too, sorted by id."""
    with store.read() as connection:
        rows = connection.execute(sa.select(companies)).all()
    entries = [Entry(_company(row), row.registered_at, row.onboarded_at) for row in rows]
    return sorted(entries, key=lambda entry: entry.company.id)


def registered(store: ControlStore, feed: str | None = None) -> list[str]:
    """The ids of all companies that are served, of those that receive a feed if one is given, sorted."""
    with store.read() as connection:
        rows = connection.execute(sa.select(companies.c.company, companies.c.feeds).where(_SERVED)).all()
    return sorted(row.company for row in rows if _receives(row, feed))


def served(store: ControlStore, settings: Settings, feed: str | None = None) -> dict[str, Served]:
    """The companies that are served, of those that receive a feed if one is given, by id."""
    columns = ("company", "database_url", "feeds", "groups", "generation", "state")
    with store.read() as connection:
        rows = connection.execute(sa.select(*(companies.c[name] for name in columns)).where(_SERVED)).all()
    groups = {text: tuple(json.loads(text)) for text in {row.groups for row in rows}}
    return {
        row.company: Served(
            row.company,
            database_place(row.company, row.database_url, settings),
            Entitlement(groups[row.groups], row.generation),
            row.state == "paused",
        )
        for row in rows
        if _receives(row, feed)
    }


def paused(store: ControlStore) -> frozenset[str]:
    """The companies whose changes wait in the hub because somebody wants them to."""
    query = sa.select(companies.c.company).where(companies.c.state == "paused")
    with store.read() as connection:
        return frozenset(connection.execute(query).scalars())


def entitlement_of(store: ControlStore, company: str) -> Entitlement:
    """What a company may get, whether it is served or not.

    Raises:
        LpmStreamError: if it is not registered.
    """
    groups = read(store, company).company.groups
    with store.read() as connection:
        query = sa.select(companies.c.generation).where(companies.c.company == company)
        return Entitlement(groups, connection.execute(query).scalar_one())


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


def said(error: ValidationError, explain: Callable[[Any], str] | None = None) -> str:
    """What is wrong with a company, in one line."""
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        text = explain(problem) if explain else str(problem["msg"]).removeprefix("Value error, ")
        field = ".".join(map(str, problem["loc"]))
        problems.append(text if field == "id" else f"{field}: {text}")
    return "; ".join(problems)


def _receives(row: Any, feed: str | None) -> bool:
    return feed is None or row.feeds == "[]" or feed in json.loads(row.feeds)


def _company(row: Any) -> Company:
    """As it is stored: what was stored before there were rules is not checked against them."""
    return Company.model_construct(
        id=row.company,
        name=row.name,
        database=row.database_url,
        feeds=tuple(json.loads(row.feeds)),
        groups=tuple(json.loads(row.groups)),
        slo_seconds=row.slo_seconds,
        state=row.state,
        labels=json.loads(row.labels),
        contacts=tuple(json.loads(row.contacts)),
    )


def _values(company: Company) -> dict[str, Any]:
    return {
        "company": company.id,
        "name": company.name,
        "database_url": company.database,
        "feeds": _json(company.feeds),
        "groups": _json(company.groups),
        "slo_seconds": company.slo_seconds,
        "state": company.state,
        "labels": _json(company.labels),
        "contacts": _json(company.contacts),
    }


def _difference(before: Company, after: Company) -> dict[str, str]:
    """What has changed, for the audit; of where the database is and who is to be asked only that it has."""
    old, new = _values(before), _values(after)
    changed = [name for name in old if old[name] != new[name]]
    shown = {"groups", "feeds", "slo_seconds", "state"}
    return {name: f"{old[name]} -> {new[name]}" if name in shown else "changed" for name in changed}


def _json(value: Collection[str] | Mapping[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _now(connection: sa.Connection) -> datetime:
    """An instant later than that of every change before, whatever the clock says."""
    newest = connection.execute(sa.select(sa.func.max(companies.c.changed_at))).scalar()
    now = datetime.now(UTC)
    return now if newest is None else max(now, newest + timedelta(microseconds=1))


def _next_generation(connection: sa.Connection, company: str) -> int:
    query = sa.select(companies.c.generation).where(companies.c.company == company)
    before: int = connection.execute(query).scalar_one()
    return max(new_generation(), before + 1)
