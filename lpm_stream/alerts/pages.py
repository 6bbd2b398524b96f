"""The pages of Dagster's UI that alerts lead to, as paths below its address."""

from urllib.parse import quote, urlencode

from lpm_stream.partition import partition_key

_LOCATION = "lpm_stream"  # the code location, as pyproject.toml and workspace.yaml name it


def company_page(feed: str, company: str) -> str:
    """A company's partition of the feed's company table."""
    query = urlencode({"view": "partitions", "partition": partition_key(company)}, quote_via=quote)
    return f"/assets/companies/{quote(feed)}?{query}"


def check_page(feed: str, check: str) -> str:
    """A check of the company tables, with its results by company."""
    query = urlencode({"view": "checks", "checkDetail": check}, quote_via=quote)
    return f"/assets/companies/{quote(feed)}_health?{query}"


def hub_page(feed: str) -> str:
    """The feed's messages in the hub."""
    return f"/assets/hub/{quote(feed)}_messages"


def sensor_page(name: str) -> str:
    """A sensor with its ticks."""
    return f"/locations/{_LOCATION}/sensors/{quote(name)}"


def run_page(run_id: str) -> str:
    """A run with its log."""
    return f"/runs/{quote(run_id)}"
