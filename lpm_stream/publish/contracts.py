"""Checks changes against the contract of the company that they are for."""

from collections import defaultdict
from collections.abc import Mapping

import polars as pl

from lpm_stream.feed.contract import Checked, check
from lpm_stream.feed.entitlement import Entitlement
from lpm_stream.feed.schema import Fit
from lpm_stream.feed.spec import FeedSpec


def check_for(spec: FeedSpec, fit: Fit, rows: pl.DataFrame, companies: Mapping[str, Entitlement]) -> Checked:
    """As `check`, but no company has rows refused, or counted, for values in columns that it does not get.

    Where it has values that break the whole contract, its good rows are NULL in those columns.

    Args:
        spec: the feed, whole.
        fit: how the table's schema fits the contract.
        rows: a batch in the source's types with `_change_type`.
        companies: what each may get; rows of others are checked against the whole contract.
    """
    found = check(spec, fit, rows)
    company = pl.col(spec.company_column)
    for contract, names in _narrower(spec, found, companies).items():
        mine = company.is_in(names).fill_null(value=False)
        again = check(spec.for_groups(contract), fit, rows.filter(mine))
        found = Checked(
            _put(found.good.filter(~mine), again.good),
            _put(found.bad.filter(~mine), again.bad),
            _put(found.stripped.filter(~mine), again.stripped),
        )
    return found


def _narrower(
    spec: FeedSpec, found: Checked, companies: Mapping[str, Entitlement]
) -> Mapping[tuple[str, ...], list[str]]:
    """The companies with breaches that do not get every column, by the groups that they get."""
    breaching = pl.concat([found.bad[spec.company_column], found.stripped[spec.company_column]]).unique()
    narrower: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for company in breaching.drop_nulls():
        entitlement = companies.get(company)
        if entitlement and entitlement.contract(spec).withheld:
            narrower[entitlement.groups].append(company)
    return narrower


def _put(others: pl.DataFrame, mine: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([others, mine], how="diagonal")
