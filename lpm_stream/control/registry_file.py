"""The registry as YAML, which can live in git: read, written, and compared with what there is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lpm_stream.control.company import Company
from lpm_stream.control.entries import Entry
from lpm_stream.database_url import require_no_secret, shown
from lpm_stream.errors import SpecError
from lpm_stream.feed.spec import BASE_GROUP, EVERY_GROUP, FeedSpec
from lpm_stream.yaml_file import explained, line_of, read_yaml


@dataclass(frozen=True)
class Change:
    """What is to become of a company.

    Attributes:
        before: as it is registered, None if it is not.
        after: as it is to be.
    """

    before: Company | None
    after: Company

    def lines(self) -> Iterator[str]:
        """The change for people, field by field."""
        before = {} if self.before is None else plain(self.before)
        after = plain(self.after)
        yield f"{'+' if self.before is None else '~'} {self.after.id}"
        for field in Company.model_fields:
            old, new = before.get(field), after.get(field)
            if field == "id" or old == new:
                continue
            if old is not None:
                yield f"  - {field}: {_said(old)}"
            if new is not None:
                yield f"  + {field}: {_said(new)}"


def read_file(path: Path, feeds: Mapping[str, FeedSpec]) -> list[Company]:
    """The companies that a file declares under `companies`.

    Raises:
        SpecError: naming file, line, field and the fix.
    """
    tree, content = read_yaml(path, "companies are declared there")
    declared = content.get("companies") if isinstance(content, dict) else None
    if not isinstance(declared, list) or set(content) != {"companies"}:
        raise SpecError(f"{path}:1: expected 'companies:' with a list, and nothing else")
    found: list[Company] = []
    problems = []
    seen: dict[str, str] = {}
    for index, one in enumerate(declared):
        try:
            company = Company.model_validate(one)
        except ValidationError as error:
            problems.append(explained(path, tree, error, "companies", index))
            continue
        at = f"{path}:{line_of(tree, ('companies', index, 'id'))}"
        problems += [f"{at}: {problem}" for problem in unfit(company, feeds)]
        other = seen.setdefault(company.id.casefold(), company.id)
        if other in {known.id for known in found}:
            problems.append(f"{at}: id: {company.id!r} is declared twice, or differs from {other!r} in case only")
        found.append(company)
    if problems:
        raise SpecError("\n".join(problems))
    return found


def unfit(company: Company, feeds: Mapping[str, FeedSpec]) -> Iterator[str]:
    """What of a company names feeds or groups that there are not."""
    if unknown := sorted(set(company.feeds) - set(feeds)):
        yield f"feeds: {unknown[0]!r} is none of {', '.join(sorted(feeds))}; correct it"
    groups = {BASE_GROUP, EVERY_GROUP, *(group for spec in feeds.values() for group in spec.groups)}
    if unknown := sorted(set(company.groups) - groups):
        yield f"groups: {unknown[0]!r} is none of {', '.join(sorted(groups))}; correct it"


def as_yaml(companies: Sequence[Company]) -> str:
    """A file that declares these companies."""
    declared = {"companies": [plain(company) for company in companies]}
    return yaml.safe_dump(declared, sort_keys=False, allow_unicode=True, width=100)


def changes(entries: Sequence[Entry], wanted: Sequence[Company]) -> list[Change]:
    """What has to change so that the registry holds `wanted`; companies that it does not name stay as they are.

    One whose onboarding was not finished, or that was removed, counts as not registered.
    """
    known = {
        entry.company.id: entry.company
        for entry in entries
        if entry.onboarded_at is not None and entry.company.state != "offboarding"
    }
    found = [Change(known.get(company.id), company) for company in wanted]
    return [
        change
        for change in found
        if change.before != change.after and (change.before or change.after.state != "offboarding")
    ]


def plain(company: Company) -> dict[str, Any]:
    """What was said about a company, without what goes without saying; a stored password is not shown."""
    said = company.model_dump(mode="json", exclude_defaults=True)
    if company.database is not None:
        said["database"] = _without_password(company.database)
    return {"id": company.id, **said, "groups": list(company.groups)}


def _without_password(place: str) -> str:
    try:
        require_no_secret(place)
    except ValueError:  # stored before that was refused
        return shown(place)
    return place


def _said(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).splitlines()[0]
