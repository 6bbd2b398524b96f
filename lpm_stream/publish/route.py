"""Decides which changes of a commit travel, and for whom."""

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl

from lpm_stream.feed.schema import CHANGE_TYPE, DELETE
from lpm_stream.feed.spec import FeedSpec

_PREIMAGE = "update_preimage"
_POSTIMAGE = "update_postimage"


def travelling(spec: FeedSpec, changes: pl.DataFrame) -> pl.DataFrame:
    """The changes that a company's table needs: inserts, postimages, deletes.

    A preimage is dropped where the postimage of the same key and company is at hand. Where it is not, the row
    has left the company or changed its key, and the preimage travels as a delete. If the postimage only comes
    with a later batch of the same commit, that delete does no harm: within one version an upsert wins.
    """
    change_type = pl.col(CHANGE_TYPE)
    before = changes.filter(change_type == _PREIMAGE)
    if before.is_empty():
        return changes
    after = changes.filter(change_type == _POSTIMAGE)
    identity = [*dict.fromkeys((*spec.primary_key, spec.company_column))]
    left = before.join(after, on=identity, how="anti", nulls_equal=True)
    deletes = left.with_columns(pl.lit(DELETE).alias(CHANGE_TYPE))
    return pl.concat([changes.filter(change_type != _PREIMAGE), deletes])


@dataclass(frozen=True)
class Routed:
    """Changes told apart by whom they belong to.

    Attributes:
        by_company: a frame for each registered company among them.
        unknown: number of changes for each company that nobody has registered.
    """

    by_company: dict[str, pl.DataFrame]
    unknown: dict[str, int]


def route(spec: FeedSpec, changes: pl.DataFrame, registered: Collection[str]) -> Routed:
    """Splits changes by the company column."""
    parts = changes.partition_by(spec.company_column, as_dict=True, maintain_order=True)
    by_company = {str(company): part for (company,), part in parts.items() if company in registered}
    unknown = {str(company): part.height for (company,), part in parts.items() if company not in registered}
    return Routed(by_company, unknown)
