"""Reads a feed's declaration from its `defs.yaml`, without Dagster, and says exactly what is wrong in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lpm_stream.errors import SpecError
from lpm_stream.feed.spec import FeedSpec

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
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); a feed is declared there") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]
        raise SpecError(f"{path}{line}: not valid YAML: {problem}") from error
    if not isinstance(content, dict) or content.get("type") != COMPONENT or "attributes" not in content:
        raise SpecError(f"{path}:1: expected 'type: {COMPONENT}' and 'attributes:'")
    try:
        return FeedSpec.model_validate(content["attributes"])
    except ValidationError as error:
        raise SpecError(_explained(path, tree, error)) from error


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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected fields of a feed, such as 'checks:'")
    try:
        return FeedSpec.model_validate(_merged(spec.model_dump(), content))
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, problem['loc']))}: {_fix(problem)}"
            for problem in error.errors(include_url=False)
        ]
        raise SpecError("\n".join(problems)) from error


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


def _explained(path: Path, tree: yaml.Node | None, error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False):
        location = tuple(problem["loc"])
        line = _line_of(tree, ("attributes", *location))
        field = ".".join(str(part) for part in location) or "attributes"
        problems.append(f"{path}:{line}: {field}: {_fix(problem)}")
    return "\n".join(problems)


def _fix(problem: Any) -> str:
    if problem["type"] == "missing":
        return "is required; add it"
    if problem["type"] == "extra_forbidden":
        return "is not a field here; remove it or correct its name"
    return str(problem["msg"]).removeprefix("Value error, ")


def _line_of(node: yaml.Node | None, location: tuple[str | int, ...]) -> int:
    """The 1-based line of the deepest part of `location` that exists."""
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
