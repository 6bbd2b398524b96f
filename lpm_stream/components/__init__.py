"""Dagster: how one feed becomes assets, checks and sensors."""

from lpm_stream.components.feed import Feed

__all__ = ["Feed"]
