"""How a company is stored."""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from lpm_stream.control.company import Company
from lpm_stream.control.tables import companies


def company_of(row: Any) -> Company:
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


def values_of(company: Company) -> dict[str, Any]:
    """The columns that hold what was said about a company."""
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


def _json(value: Collection[str] | Mapping[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False)


def later_than_all(connection: sa.Connection) -> datetime:
    """An instant later than that of every change before, whatever the clock says."""
    newest = connection.execute(sa.select(sa.func.max(companies.c.changed_at))).scalar()
    now = datetime.now(UTC)
    return now if newest is None else max(now, newest + timedelta(microseconds=1))
