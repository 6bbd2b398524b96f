"""What every kind of company database can do, and how one is opened from its URL."""

from contextlib import AbstractContextManager
from typing import Protocol

import polars as pl

from lpm_stream import database_url
from lpm_stream.delivery.watermark import Watermark
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.entitlement import EVERYTHING, Entitlement
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.postgresql import DRIVER_MISSING


class Transaction(Protocol):
    """One transaction of a company's database. It holds the right to write until its end."""

    def watermark(self) -> Watermark:
        """What the database has applied; it cannot change before the transaction ends."""
        ...

    def merge(self, changes: pl.DataFrame) -> None:
        """Applies changes under the row guard.

        An upsert lands unless the stored row is of a newer version; a delete removes the row only if that is of
        an older one.

        Args:
            changes: contract columns, `_change_type` and `_commit_version`; each key at most once.

        Raises:
            RowFaultError: if the table refuses a value; with several rows it may also be the database that
                fails, which then shows with each row alone.
            TargetFaultError: if the database fails otherwise.
        """
        ...

    def sweep(self, version: int) -> None:
        """Removes rows whose `_commit_version` is less than `version`."""
        ...

    def create_replacement(self) -> None:
        """Makes an empty table beside the company's, in place of one that a killed backfill has left.

        Raises:
            EntitlementsChangedError: if the database was opened with newer entitlements meanwhile.
        """
        ...

    def fill_replacement(self, rows: pl.DataFrame) -> None:
        """Adds rows to the replacement, which readers do not see yet.

        Args:
            rows: contract columns and `_commit_version`; no key twice. One of an earlier call is replaced.

        Raises:
            EntitlementsChangedError: if the database was opened with newer entitlements meanwhile.
            RowFaultError: as `merge` does.
            TargetFaultError: likewise.
        """
        ...

    def drop_replacement(self) -> None:
        """Removes the replacement, if there is one."""
        ...

    def swap(self) -> None:
        """Puts the replacement into the place of the company's table.

        Indexes and triggers of the customer's own are made again, where the kind of database can say how they were
        made; else the log names them.

        Raises:
            EntitlementsChangedError: if the database was opened with newer entitlements meanwhile.
            TargetFaultError: if the replacement cannot have one of them.
        """
        ...

    def drop(self) -> None:
        """Removes the company's table, what is left beside it, and the watermark."""
        ...

    def store(self, watermark: Watermark) -> None:
        """Stores the watermark.

        Raises:
            LeaseLostError: if a worker with a larger fence has written since.
        """
        ...


class CompanyDatabase(Protocol):
    """The database of one company, for one feed."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begins a transaction, committed at the end of the block and rolled back on any error.

        Raises:
            TargetFaultError: if the database cannot be reached or written.
        """
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


def open_database(
    spec: FeedSpec, company: str, url: str, entitlement: Entitlement = EVERYTHING
) -> CompanyDatabase:
    """Opens a company's database, makes its tables if it has none, and brings them to what it may get.

    Args:
        spec: the feed, whole.
        company: the company's id.
        url: a SQLAlchemy URL, or a reference to one.
        entitlement: what of the feed the company may get.

    Raises:
        EntitlementsChangedError: if it was opened with a newer entitlement before.
        TargetFaultError: if its URL is none, or it cannot be reached, or is another company's.
        LpmStreamError: if it is of a kind that is not supported, or its driver is not installed.
    """
    parsed = database_url.parse(url, f"the database of company {company!r}")
    spec = entitlement.contract(spec)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise LpmStreamError(f"the database URL of company {company!r} names no file; use sqlite:///PATH")
        from lpm_stream.delivery.sqlite import SqliteDatabase  # noqa: PLC0415 - each kind loads its own driver

        return SqliteDatabase(spec, company, parsed.database or "", entitlement.generation)
    if parsed.get_backend_name() == "postgresql":
        try:
            from lpm_stream.delivery.postgresql import PostgresqlDatabase  # noqa: PLC0415
        except ImportError as error:
            raise LpmStreamError(DRIVER_MISSING) from error
        return PostgresqlDatabase(spec, company, parsed, entitlement.generation)
    if parsed.get_backend_name() == "mssql":
        from lpm_stream.delivery.mssql import MssqlDatabase  # noqa: PLC0415

        return MssqlDatabase(spec, company, parsed, entitlement.generation)
    raise LpmStreamError(
        f"databases of kind {parsed.get_backend_name()!r} are not supported; use sqlite:///PATH, "
        f"postgresql://USER@HOST/DATABASE or mssql+mssqlpython://USER@HOST/DATABASE"
    )
