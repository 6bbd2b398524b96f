"""The names under which a feed's parts appear in Dagster.

The last part of a key is all that the graph shows, so it tells the parts apart.
"""

import dagster as dg

from lpm_stream.feed.spec import FeedSpec


def source_key(spec: FeedSpec) -> dg.AssetKey:
    """The source table."""
    return dg.AssetKey(["lakehouse", spec.source_table])


def hub_key(spec: FeedSpec) -> dg.AssetKey:
    """The feed's messages in the hub."""
    return dg.AssetKey(["hub", f"{spec.name}_messages"])


def company_key(spec: FeedSpec) -> dg.AssetKey:
    """The feed's table in every company's database."""
    return dg.AssetKey(["companies", spec.name])


def health_key(spec: FeedSpec) -> dg.AssetKey:
    """What the checks of company tables say.

    An asset of its own: to Dagster a check's result is over as soon as its asset is materialized again, and the
    stream reports the companies' tables every minute.
    """
    return dg.AssetKey(["companies", f"{spec.name}_health"])


def legacy_key(spec: FeedSpec) -> dg.AssetKey:
    """The legacy files that companies get."""
    return dg.AssetKey(["legacy", f"{spec.name}_files"])


def companies_partitions(spec: FeedSpec) -> dg.DynamicPartitionsDefinition:
    """The companies; feeds with the same company column share them."""
    return dg.DynamicPartitionsDefinition(name=spec.company_column)
