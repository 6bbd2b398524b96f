"""Changes of companies that are served: what they may get, and where their database is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import sqlalchemy as sa

from lpm_stream.control import audit, entries, leases, registry, tables
from lpm_stream.control.company import Company
from lpm_stream.control.company_lease import alone
from lpm_stream.control.registry_file import Change
from lpm_stream.database_url import shown
from lpm_stream.delivery.backfill import backfill
from lpm_stream.delivery.database import CompanyDatabase
from lpm_stream.delivery.entitled import EntitlementsChangedError
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.stream import Stream

_KEPT = (tables.audit, tables.companies)  # what was done, and that the company is not to be taken in unasked
_OF_COMPANIES = tuple(
    table for table in tables.metadata.sorted_tables if "company" in table.c and table not in _KEPT
)


def change(
    streams: Sequence[Stream],
    wanted: Change,
    *,
    go_on: Callable[[], bool],
    tell: Callable[[int, int], None],
) -> list[str]:
    """Changes a registered company, on the stream and in what is stored.

    A new database is made before anything is changed: if it cannot be had, everything stays as it is. Then the
    registry comes first: from then on nobody opens the company's database with what it was entitled to before.
    What was revoked is dropped as soon as the database is opened, here or by the deliverer; what was granted is
    loaded from the table. A change that was stopped half-way is finished by `finish`.

    Args:
        streams: every feed, opened.
        wanted: the company as it is and as it is to be.
        go_on: asked during a load; False gives up.
        tell: told how many rows of how many are loaded.

    Returns:
        What was done, one line each.

    Raises:
        LpmStreamError: if it is not what it was any more, or its database cannot be brought to the change.
    """
    assert wanted.before is not None  # noqa: S101 - new ones are onboarded
    generation = _made(streams, wanted.before, wanted.after)
    with streams[0].store.write() as connection:
        entries.change(connection, wanted.before, wanted.after, generation)
    if wanted.after.state == "offboarding":
        return ["not served any more"]
    if not entries.touches_data(wanted.before, wanted.after):
        return []
    done = finish(streams, wanted.after, go_on=go_on, tell=tell)
    return [*done, *_left_behind(streams, wanted.before, wanted.after)]


def _made(streams: Sequence[Stream], before: Company, after: Company) -> int:
    """Makes the tables in a company's new database; the generation that it was opened with, 0 if there is none."""
    if after.database == before.database or after.state == "offboarding":
        return 0
    with streams[0].store.read() as connection:
        entries.require_unchanged(connection, before)
        generation = entries.next_generation(connection, before.id)
    place = registry.database_place(after.id, after.database, streams[0].settings)
    for stream in streams:
        if not after.feeds or stream.spec.name in after.feeds:
            generation = _make(stream, registry.Served(after.id, place, Entitlement(after.groups, generation)))
    return generation


def _make(stream: Stream, served: registry.Served) -> int:
    """Makes a feed's tables in a database; the generation that it was opened with, newer than any that it knew."""
    try:
        with closing(stream.open_database(served)) as database, database.transaction() as transaction:
            transaction.watermark()
    except EntitlementsChangedError as error:  # the company had it before, in a time that the registry has lost
        return _make(stream, _of_generation(served, error.stored + 1))
    return served.entitlement.generation


def _of_generation(served: registry.Served, generation: int) -> registry.Served:
    return replace(served, entitlement=replace(served.entitlement, generation=generation))


def _left_behind(streams: Sequence[Stream], before: Company, after: Company) -> Iterator[str]:
    """What the company has still from before the change, and nobody looks after any more."""
    place, new = (registry.database_place(one.id, one.database, streams[0].settings) for one in (before, after))
    for stream in streams:
        feed = stream.spec.name
        received = not before.feeds or feed in before.feeds
        if received and (place != new or (after.feeds and feed not in after.feeds)):
            yield f"table {feed} in {shown(place)} keeps its rows and gets no more: drop it if they are to go"


def finish(
    streams: Sequence[Stream], company: Company, *, go_on: Callable[[], bool], tell: Callable[[int, int], None]
) -> list[str]:
    """Brings a company's tables to what the registry says; raises and takes as `change` does."""
    done = []
    generation = entries.entitlement_of(streams[0].store, company.id).generation
    for stream in streams:
        if company.feeds and stream.spec.name not in company.feeds:
            continue
        with stream.company_database(company.id):
            done.append(f"table {stream.spec.name} has the columns of {', '.join(company.groups)}")
        if company.id in registry.to_load(stream.store, stream.spec.name):
            loaded = backfill(stream, company.id, rebuild=False, go_on=go_on, tell=tell)
            done.append(f"{loaded.rows:,} rows loaded into {stream.spec.name}, as of version {loaded.version}")
    entries.note_applied(streams[0].store, company.id, generation)
    return done


def confirm(
    streams: Sequence[Stream], company: Company, *, go_on: Callable[[], bool], tell: Callable[[int, int], None]
) -> list[str]:
    """Has a company's database take what the registry says, although it has seen newer entitlements.

    For after the control store was restored from an older copy: else the database refuses whoever comes with that.

    Raises:
        LpmStreamError: as `change` does.
    """
    newest = 0
    for stream in streams:
        if company.feeds and stream.spec.name not in company.feeds:
            continue
        try:
            with stream.company_database(company.id):
                pass
        except EntitlementsChangedError as error:
            newest = max(newest, error.stored)
    if newest:
        entries.confirm(streams[0].store, company.id, newest)
    return finish(streams, company, go_on=go_on, tell=tell)


def unfinished(streams: Sequence[Stream], also: Iterable[Company] = ()) -> dict[str, str]:
    """The companies whose last change was not carried out to its end, and what is left to do, for `finish`.

    Args:
        streams: every feed, opened.
        also: companies whose tables are to be looked at all the same: the contract may have moved a column to
            another group, which the registry knows nothing of.
    """
    store = streams[0].store
    lagging = [*(one.id for one in also if one.state != "offboarding"), *registry.to_apply(store)]
    left = dict.fromkeys(lagging, "see that its tables have the columns that it may get")
    for stream in streams:
        left |= dict.fromkeys(registry.to_load(store, stream.spec.name), "load what it was granted")
    return left


def drop_data(streams: Sequence[Stream], company: str) -> None:
    """Removes a company's rows from its database, and all that the control store keeps of it but for the audit.

    Raises:
        LpmStreamError: if the company is still served, or being onboarded, or its database cannot be written.
    """
    store = streams[0].store
    with alone(store, company) as lease:
        _require_removed(entries.read(store, company).company)
        for stream in streams:
            with _opened_once_more(stream, company) as database, database.transaction() as transaction:
                leases.renew(store, lease)  # none but us is at this company
                transaction.drop()
        with store.write() as connection:
            leases.check(connection, lease)
            _require_removed(entries.read_in(connection, company).company)
            _forget(connection, company)


def _require_removed(company: Company) -> None:
    if company.state != "offboarding":
        raise LpmStreamError(f"company {company.id!r} is still served: lpm-stream companies remove")


def _opened_once_more(stream: Stream, company: str) -> closing[CompanyDatabase]:
    """The database of a company that is not served any more, whatever it has been opened with before."""
    entitlement = entries.entitlement_of(stream.store, company)
    known = entries.read(stream.store, company).company
    place = registry.database_place(company, known.database, stream.settings)
    served = registry.Served(company, place, entitlement)
    try:
        return closing(stream.open_database(served))
    except EntitlementsChangedError as error:  # by an onboarding, say, that was given up before it was registered
        return closing(stream.open_database(_of_generation(served, error.stored)))


def _forget(connection: sa.Connection, company: str) -> None:
    told = sa.select(tables.incidents.c.id).where(tables.incidents.c.company == company)
    connection.execute(sa.delete(tables.notifications).where(tables.notifications.c.incident.in_(told)))
    for table in _OF_COMPANIES:
        connection.execute(sa.delete(table).where(table.c.company == company))
    audit.record(connection, "drop_data", company, {})
