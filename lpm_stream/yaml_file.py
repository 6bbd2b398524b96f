"""YAML files that people write, and what is wrong in them: by file, line and field."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lpm_stream.errors import SpecError

Tree = yaml.Node | None


def read_yaml(path: Path, purpose: str) -> tuple[Tree, Any]:
    """A file's content, and where its parts stand.

    Args:
        path: the file.
        purpose: what it is for, if it cannot be read: "a feed is declared there".

    Raises:
        SpecError: if it cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); {purpose}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]
        raise SpecError(f"{path}{line}: not valid YAML: {problem}") from error


def explained(path: Path, tree: Tree, error: ValidationError, *below: str | int) -> str:
    """What is wrong, a line for each problem.

    Args:
        path: the file.
        tree: as `read_yaml` hands it out.
        error: what the content of the part `below` met.
        below: the way to that part.
    """
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        location = (*below, *problem["loc"])
        field = ".".join(str(part) for part in problem["loc"]) or ".".join(map(str, below))
        problems.append(f"{path}:{line_of(tree, location)}: {field}: {_fix(problem)}")
    return "\n".join(problems)


def _fix(problem: Any) -> str:
    if problem["type"] == "missing":
        return "is required; add it"
    if problem["type"] == "extra_forbidden":
        return "is not a field here; remove it or correct its name"
    return str(problem["msg"]).removeprefix("Value error, ")


def line_of(node: Tree, location: tuple[str | int, ...]) -> int:
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
