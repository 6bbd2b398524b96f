"""Reads a feed's declaration from its `defs.yaml`, without Dagster, and says exactly what is wrong in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def overridden(spec: FeedSpec, home: Path) -> FeedSpec:
    """The feed as one home directory has it: what `HOME/feeds/NAME.yaml` says of it wins over its declaration.

    The file has the fields of a declaration's `attributes` that are to differ; sections are merged field by field.
    Without the file the feed stays as it is.

    Raises:
        SpecError: if the file cannot be read, or the feed would be wrong with it.
    """
    path = override_path(spec, home)
    if not path.exists():
        return spec
    tree, content = read_yaml(path, "what is different about the feed here is declared there")
    if not isinstance(content, dict):
        raise SpecError(f"{path}:1: expected fields of a feed, such as 'checks:'")
    try:
        return FeedSpec.model_validate(_merged(spec.model_dump(), content))
    except ValidationError as error:
        raise SpecError(explained(path, tree, error)) from error


def override_path(spec: FeedSpec, home: Path) -> Path:
    """Where a home directory says what is different there about a feed."""
    return home / "feeds" / f"{spec.name}.yaml"


def _merged(declared: Mapping[str, Any], wins: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(declared)
    for name, value in wins.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)  # noqa: PLW2901 - the section
        merged[name] = value
    return merged
