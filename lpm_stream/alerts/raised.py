"""Causes that somebody raises when it happens, because the control store does not show them otherwise.

They stand until they are withdrawn. Raising one again changes its text, not since when it stands.
"""

import shlex
from dataclasses import fields
from datetime import UTC, datetime

import sqlalchemy as sa

from lpm_stream.alerts.cause import Cause
from lpm_stream.alerts.pages import check_page, hub_page
from lpm_stream.control.store import ControlStore, upsert
from lpm_stream.control.tables import raised_causes
from lpm_stream.errors import LpmStreamError, told

PUBLISHING_STOPPED, CHECK_FAILED = "publishing_stopped", "check_failed"

_LONGEST = 2_000  # characters of a text


def raise_cause(store: ControlStore, feed: str, cause: Cause) -> None:
    """Raises a cause, or raises it again."""
    key = {"feed": feed, "kind": cause.kind, "company": cause.company}
    texts = {name: getattr(cause, name)[:_LONGEST] for name in ("what", "affected", "likely", "command", "page")}
    with store.write() as connection:
        mine = [raised_causes.c[name] == value for name, value in key.items()]
        since = connection.execute(sa.select(raised_causes.c.since).where(*mine)).scalar()
        upsert(connection, raised_causes, key, texts | {"since": since or cause.since})


def withdraw_cause(store: ControlStore, feed: str, kind: str, company: str = "") -> None:
    """Withdraws a cause if it stands. That costs no more than a look where it does not."""
    table = raised_causes
    mine = (table.c.feed == feed) & (table.c.kind == kind) & (table.c.company == company)
    with store.read() as connection:
        if connection.execute(sa.select(table.c.kind).where(mine)).first() is None:
            return
    with store.write() as connection:
        connection.execute(table.delete().where(mine))


def read_raised(store: ControlStore, feed: str) -> list[Cause]:
    """The causes that stand."""
    columns = [raised_causes.c[field.name] for field in fields(Cause)]
    query = sa.select(*columns).where(raised_causes.c.feed == feed)
    with store.read() as connection:
        return [Cause(**row) for row in connection.execute(query).mappings()]


def command_after(feed: str, company: str) -> str:
    """What to type next, whichever check of a company's table has failed."""
    return f"lpm-stream verify --company {shlex.quote(company)} --feed {feed}"


def check_came_out(
    store: ControlStore, feed: str, check: str, company: str, failure: str | None, *, found: str = ""
) -> None:
    """Notes how a check on a company's table came out: the one thing that a check has to call.

    Args:
        store: the control store.
        feed: the feed's name.
        check: the check's name.
        company: whose table.
        failure: what is wrong, in a line without row contents, and without numbers that change while it is: a new
            text is news; None if the check passed.
        found: what the check has found, with its numbers.
    """
    kind = f"{CHECK_FAILED}:{check}"
    if failure is None:
        withdraw_cause(store, feed, kind, company)
        return
    cause = Cause(
        kind=kind,
        company=company,
        what=f"check {check} fails: {failure}",
        since=datetime.now(UTC),
        affected=f"company {company!r}: its table cannot be relied upon",
        likely=f"the check found: {found}" if found else "the check's page shows what it found",
        command=command_after(feed, company),
        page=check_page(feed, check),
    )
    raise_cause(store, feed, cause)


def publishing_stopped(store: ControlStore, feed: str, error: BaseException) -> None:
    """Notes that the source table cannot be followed any further, or the hub takes nothing.

    Of an unexpected error only the type is told: its text may quote a row.
    """
    where = "" if isinstance(error, LpmStreamError) else ", a defect; the log says where"
    raise_cause(store, feed, _stopped(feed, told(error) + where))


def publisher_died(store: ControlStore, feed: str, exit_code: int | None) -> None:
    """Notes that a publishing process has died, unless it could say itself why publishing has stopped."""
    if not any(cause.kind == PUBLISHING_STOPPED for cause in read_raised(store, feed)):
        text = f"its process died (exit code {exit_code}): the machine's log says whether its memory was too small"
        raise_cause(store, feed, _stopped(feed, text))


def _stopped(feed: str, text: str) -> Cause:
    return Cause(
        kind=PUBLISHING_STOPPED,
        company="",
        what=f"publishing has stopped: {text}",
        since=datetime.now(UTC),
        affected="every company of the feed: nothing new is delivered to any of them",
        likely="the source table was changed, replaced or cleaned up, or its storage does not answer",
        command=f"lpm-stream {'resync' if 'resync' in text else 'status'} --feed {feed}",
        page=hub_page(feed),
    )


def publishing_goes_on(store: ControlStore, feed: str) -> None:
    """Notes that the source table can be followed."""
    withdraw_cause(store, feed, PUBLISHING_STOPPED)
