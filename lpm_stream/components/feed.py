"""The component that a feed's `defs.yaml` names: a feed spec in, Dagster definitions out."""

from dataclasses import dataclass
from typing import Self, cast

import dagster as dg
from pydantic import BaseModel

from lpm_stream.components.assets import company_asset, hub_asset, source_asset
from lpm_stream.components.checks import check_job, check_schedules, company_checks
from lpm_stream.components.jobs import backfill_job, quarantine_jobs, resync_job
from lpm_stream.components.sensors import alerts_sensor, deliver_sensor, legacy_sensor, publish_sensor
from lpm_stream.components.specs import health_spec, legacy_spec
from lpm_stream.components.stopping import notice_signals
from lpm_stream.feed.load import overridden
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.settings import Settings


@dataclass(frozen=True)
class Feed(dg.Component):
    """A stream from one Delta table through the hub into one table of each company's database.

    Attributes:
        spec: what the feed's `defs.yaml` declares under `attributes`.
    """

    spec: FeedSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """What `attributes` has to look like."""
        return FeedSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:  # noqa: ARG003
        """The component of one `defs.yaml` (Dagster has validated it), as the home directory has it."""
        return cls(overridden(cast("FeedSpec", attributes), Settings.load().home))

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What Dagster's tools say about this kind of component."""
        return dg.ComponentTypeSpec(
            description="Streams every change of a Delta table into the database of the company it belongs to.",
            produces=["asset", "asset_check", "sensor", "schedule", "job"],
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002
        """The feed's assets and checks, the sensors that move them and tell what is wrong, and people's jobs."""
        notice_signals()
        source = source_asset(self.spec)
        hub = hub_asset(self.spec)
        company = company_asset(self.spec)
        check = check_job(self.spec)
        legacy, watchers = [], []
        if self.spec.legacy is not None:
            legacy.append(legacy_spec(self.spec, self.spec.legacy))
            watchers.append(legacy_sensor(self.spec, check))
        return dg.Definitions(
            assets=[source, hub, company, *legacy, health_spec(self.spec)],
            asset_checks=[company_checks(self.spec)],
            sensors=[
                publish_sensor(self.spec),
                deliver_sensor(self.spec),
                alerts_sensor(self.spec),
                *watchers,
            ],
            jobs=[backfill_job(self.spec), *quarantine_jobs(self.spec), resync_job(self.spec), check],
            schedules=check_schedules(self.spec, check),
        )
