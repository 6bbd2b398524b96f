"""Dagster: how one feed becomes assets and sensors."""

from lpm_stream.components.feed import Feed

__all__ = ["Feed"]
