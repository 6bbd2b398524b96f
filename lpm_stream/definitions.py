"""What Dagster loads."""

import warnings
from pathlib import Path

import dagster as dg

from lpm_stream.components.tidying import tidy_definitions

# Dagster says so of its own handling of checks that come from components.
warnings.filterwarnings("ignore", "Parameter `execution_type` of function `AssetsDefinition", dg.BetaWarning)


@dg.definitions
def defs() -> dg.Definitions:
    """Every feed declared below `lpm_stream/defs`, and what is there for all of them."""
    # A run has one step: a process for it beside the run's own would only cost time.
    settings = dg.Definitions(executor=dg.in_process_executor)
    feeds = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(settings, feeds, tidy_definitions())
