"""A feed's assets, and what happens when somebody observes or materialises one by hand."""

from typing import cast

import dagster as dg

from lpm_stream.components.actor import acting
from lpm_stream.components.by_hand import deliver_now, observe_source, publish_now
from lpm_stream.components.jobs import CompanyConfig, company_op
from lpm_stream.components.loading import load_now
from lpm_stream.components.partitions import company_id
from lpm_stream.components.specs import company_spec, hub_spec, source_spec
from lpm_stream.components.tags import tag_company
from lpm_stream.feed.spec import FeedSpec


def source_asset(spec: FeedSpec) -> dg.AssetsDefinition:
    """The source table: external, and observable by hand."""

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]
        specs=[source_spec(spec)], name=f"observe_{spec.source_table}"
    )
    def observe() -> dg.ObserveResult:
        return observe_source(spec)

    return cast("dg.AssetsDefinition", observe)


def hub_asset(spec: FeedSpec) -> dg.AssetsDefinition:
    """The feed's messages in the hub; materialising publishes until caught up."""

    @dg.multi_asset(specs=[hub_spec(spec)], name=f"publish_{spec.name}_now")
    def publish() -> dg.MaterializeResult[None]:
        return publish_now(spec)

    return publish


def company_asset(spec: FeedSpec) -> dg.AssetsDefinition:
    """The feed's table in a company's database; materialising catches the company up, or loads it."""

    @dg.multi_asset(specs=[company_spec(spec)], name=company_op(spec))
    def deliver(context: dg.AssetExecutionContext, config: CompanyConfig) -> dg.MaterializeResult[None]:
        tag_company(context, company_id(context.partition_key))
        if config.load_from == "stream":
            return deliver_now(spec, context.partition_key)
        with acting(context):
            return load_now(spec, context, rebuild=config.rebuild)

    return deliver
