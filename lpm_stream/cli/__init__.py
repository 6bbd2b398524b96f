"""The command line."""

from lpm_stream.cli.app import main

__all__ = ["main"]
