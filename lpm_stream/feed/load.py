"""Reads a feed's declaration from its `defs.yaml`, without Dagster, and says exactly what is wrong in it."""

from pathlib import Path

from pydantic import ValidationError

from lpm_stream.errors import SpecError
from lpm_stream.feed.spec import FeedSpec
from lpm_stream.yaml_file import explained, read_yaml

FEEDS = Path(__file__).parent.parent / "defs"
COMPONENT = "lpm_stream.components.Feed"


def load_feeds() -> dict[str, FeedSpec]:
    """All feeds declared under `lpm_stream/defs`, by name.

    Raises:
        SpecError: if one of them is wrong.
    """
    specs: dict[str, FeedSpec] = {}
    paths: dict[str, Path] = {}
    for path in sorted(FEEDS.glob("*/defs.yaml")):
        spec = load_feed(path)
        if spec.name in specs:
            raise SpecError(f"{path}: name: {spec.name!r} is the feed of {paths[spec.name]}; choose another")
        specs[spec.name], paths[spec.name] = spec, path
    return specs


def load_feed(path: Path) -> FeedSpec:
    """The feed declared in one `defs.yaml`.

    Raises:
        SpecError: naming file, line, field and the fix.
    """
    tree, content = read_yaml(path, "a feed is declared there")
    if not isinstance(content, dict) or content.get("type") != COMPONENT or "attributes" not in content:
        raise SpecError(f"{path}:1: expected 'type: {COMPONENT}' and 'attributes:'")
    try:
        return FeedSpec.model_validate(content["attributes"])
    except ValidationError as error:
        raise SpecError(explained(path, tree, error, "attributes")) from error
