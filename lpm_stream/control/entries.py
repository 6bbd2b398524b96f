"""The entries of the registry: what was said about each company, added and changed."""

from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import sqlalchemy as sa

from lpm_stream.control import audit, parking
from lpm_stream.control.company import Company
from lpm_stream.control.company_rows import company_of, later_than_all, values_of
from lpm_stream.control.store import ControlStore
from lpm_stream.control.tables import companies, parked, raised_causes
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.feed.spec import EVERY_GROUP

_ACTIONS = MappingProxyType({"active": "resume", "paused": "pause", "offboarding": "remove"})


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
    now = later_than_all(connection)
    values = values_of(company) | {"changed_at": now, "generation": generation, "onboarded_at": None}
    mine = companies.c.company == company.id
    known = connection.execute(sa.select(companies.c.state).where(mine)).one_or_none()
    if known is None:
        connection.execute(companies.insert().values(registered_at=now, **values))
        return
    if known.state == "offboarding":
        values["registered_at"] = now  # what came since it was removed was not kept for it
        _forget_troubles(connection, company.id)
    connection.execute(companies.update().where(mine).values(values))


def generation_for(store: ControlStore, company: Company) -> int:
    """The generation with which an onboarding begins: that of an earlier try that was to do the same."""
    with store.read() as connection:
        row = connection.execute(sa.select(companies).where(companies.c.company == company.id)).one_or_none()
    if row is None:
        return new_generation()
    known = company_of(row)
    same = known.state == company.state and not touches_data(known, company)
    return int(row.generation) if same else max(new_generation(), row.generation + 1)


def new_generation() -> int:
    """A generation for entitlements: milliseconds, which grow even if the control store is an older copy."""
    return int(datetime.now(UTC).timestamp() * 1000)


def finish_onboarding(store: ControlStore, company: str) -> None:
    """Notes that a company is onboarded."""
    with store.write() as connection:
        mine = companies.update().where(companies.c.company == company)
        connection.execute(mine.values(onboarded_at=datetime.now(UTC), applied_generation=companies.c.generation))
        audit.record(connection, "onboarded", company, {})


def note_applied(store: ControlStore, company: str, generation: int) -> None:
    """Notes that a company's tables have the columns of that generation of its entitlements, or of a newer one."""
    older = (companies.c.company == company) & (companies.c.applied_generation < generation)
    with store.write() as connection:
        connection.execute(companies.update().where(older).values(applied_generation=generation))


def change(connection: sa.Connection, before: Company, after: Company, generation: int = 0) -> None:
    """Changes what is known of a company.

    Args:
        connection: a transaction.
        before: as it is.
        after: as it is to be.
        generation: with which a new database of its was opened already: its entitlements are no older.

    Raises:
        LpmStreamError: if it is not what it was `before`: somebody else was quicker.
    """
    require_unchanged(connection, before)
    values = values_of(after) | {"changed_at": later_than_all(connection)}
    if touches_data(before, after):
        values["generation"] = max(next_generation(connection, before.id), generation)
    if _needs_load(before, after):
        values["load_generation"] = values["generation"]
    connection.execute(companies.update().where(companies.c.company == before.id).values(**values))
    if after.state != before.state:
        _note_state(connection, before.id, after.state)
    action = "change" if after.groups == before.groups else "entitlement"
    audit.record(connection, action, before.id, _difference(before, after))


def require_unchanged(connection: sa.Connection, before: Company) -> None:
    """Makes sure that a company is what it was when somebody looked at it.

    Raises:
        LpmStreamError: if it is not.
    """
    row = connection.execute(sa.select(companies).where(companies.c.company == before.id)).one_or_none()
    if row is None or company_of(row) != before:
        raise LpmStreamError(f"company {before.id!r} was changed by somebody else meanwhile: look, and try again")


def confirm(store: ControlStore, company: str, above: int) -> None:
    """Has a company's entitlements, as they are, be newer than `above`, and loaded, as if they had changed.

    Raises:
        LpmStreamError: if it is not registered.
    """
    groups = read(store, company).company.groups
    with store.write() as connection:
        generation = max(next_generation(connection, company), above + 1)
        values = {
            "generation": generation,
            "load_generation": generation,
            "changed_at": later_than_all(connection),
        }
        connection.execute(companies.update().where(companies.c.company == company).values(**values))
        audit.record(connection, "entitlement", company, {"confirmed": ", ".join(groups)})


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
        connection.execute(mine.values(state=state, changed_at=later_than_all(connection)))
        _note_state(connection, company, state)
        audit.record(connection, _ACTIONS[state], company, {"state_before": row.state})
    return True


def read(store: ControlStore, company: str) -> Entry:
    """A company.

    Raises:
        LpmStreamError: if it is not registered.
    """
    with store.read() as connection:
        return read_in(connection, company)


def read_in(connection: sa.Connection, company: str) -> Entry:
    """A company, as `read` has it, within a transaction."""
    row = connection.execute(sa.select(companies).where(companies.c.company == company)).one_or_none()
    if row is None:
        raise LpmStreamError(f"company {company!r} is not registered; lpm-stream companies list shows who is")
    return Entry(company_of(row), row.registered_at, row.onboarded_at)


def is_onboarded(store: ControlStore, company: str) -> bool:
    """Whether a company is served, and its onboarding was finished."""
    mine = (companies.c.company == company) & (companies.c.state != "offboarding")
    query = sa.select(companies.c.company).where(mine, companies.c.onboarded_at.is_not(None))
    with store.read() as connection:
        return connection.execute(query).first() is not None


def read_all(store: ControlStore) -> list[Entry]:
    """All companies, those that are being offboarded too, sorted by id."""
    with store.read() as connection:
        rows = connection.execute(sa.select(companies)).all()
    entries = [Entry(company_of(row), row.registered_at, row.onboarded_at) for row in rows]
    return sorted(entries, key=lambda entry: entry.company.id)


def entitlement_of(store: ControlStore, company: str) -> Entitlement:
    """What a company may get, whether it is served or not.

    Raises:
        LpmStreamError: if it is not registered.
    """
    groups = read(store, company).company.groups
    with store.read() as connection:
        query = sa.select(companies.c.generation).where(companies.c.company == company)
        return Entitlement(groups, connection.execute(query).scalar_one())


def _note_state(connection: sa.Connection, company: str, state: str) -> None:
    if state == "active":
        parking.resume(connection, company)
    elif state == "offboarding":
        _forget_troubles(connection, company)


def _forget_troubles(connection: sa.Connection, company: str) -> None:
    """Forgets what was wrong with a company: what it will be after it was removed begins anew."""
    for table in (parked, raised_causes):
        connection.execute(table.delete().where(table.c.company == company))


def next_generation(connection: sa.Connection, company: str) -> int:
    """A generation larger than that of a registered company's entitlements."""
    query = sa.select(companies.c.generation).where(companies.c.company == company)
    before: int = connection.execute(query).scalar_one()
    return max(new_generation(), before + 1)


def _difference(before: Company, after: Company) -> dict[str, str]:
    """What has changed, for the audit; of where the database is and who is to be asked only that it has."""
    old, new = values_of(before), values_of(after)
    changed = [name for name in old if old[name] != new[name]]
    shown = {"groups", "feeds", "slo_seconds", "state"}
    return {name: f"{old[name]} -> {new[name]}" if name in shown else "changed" for name in changed}
