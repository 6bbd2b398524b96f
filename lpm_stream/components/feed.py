"""The component that a feed's `defs.yaml` names: a feed spec in, Dagster definitions out."""

from dataclasses import dataclass
from typing import Self, cast

import dagster as dg
from pydantic import BaseModel

from lpm_stream.components.assets import company_asset, hub_asset, source_asset
from lpm_stream.components.jobs import backfill_job, quarantine_jobs, resync_job
from lpm_stream.components.sensors import alerts_sensor, deliver_sensor, publish_sensor
from lpm_stream.components.stopping import notice_signals
from lpm_stream.feed.spec import FeedSpec


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
        """The component of one `defs.yaml`; Dagster has validated its attributes."""
        return cls(cast("FeedSpec", attributes))

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What Dagster's tools say about this kind of component."""
        return dg.ComponentTypeSpec(
            description="Streams every change of a Delta table into the database of the company it belongs to.",
            produces=["asset", "sensor", "job"],
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002
        """The feed's assets, the sensors that keep them moving and tell what is wrong, and people's jobs."""
        notice_signals()
        source = source_asset(self.spec)
        hub = hub_asset(self.spec)
        company = company_asset(self.spec)
        return dg.Definitions(
            assets=[source, hub, company],
            sensors=[publish_sensor(self.spec), deliver_sensor(self.spec), alerts_sensor(self.spec)],
            jobs=[backfill_job(self.spec), *quarantine_jobs(self.spec), resync_job(self.spec)],
        )
