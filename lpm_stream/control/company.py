"""A company as the registry knows it, and as YAML says it."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from lpm_stream.database_url import require_no_secret
from lpm_stream.feed.spec import BASE_GROUP, EVERY_GROUP, LONGEST_COMPANY_ID, LONGEST_SLO, Name

State = Literal["active", "paused", "offboarding"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # arguments that are not UTF-8 reach Python as lone surrogates


class Company(BaseModel):
    """What an operator says about a company."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="its value in the feeds' company column")
    name: str = Field("", max_length=200, description="for people")
    database: str | None = Field(
        None,
        max_length=2000,
        description="URL of its database without a password, {company} in it stands for the id; or env:NAME, "
        "file:PATH or keyvault:VAULT/SECRET, where the URL is; by default from LPM_STREAM_DATABASE_TEMPLATE",
    )
    feeds: tuple[Name, ...] = Field((), description="the feeds it receives; none: every feed")
    groups: tuple[Name, ...] = Field(
        (BASE_GROUP,), description="the groups of columns it is entitled to, besides base; all: every group"
    )
    slo_seconds: float | None = Field(
        None, gt=0, le=LONGEST_SLO, allow_inf_nan=False, description="promised to it instead of the feed's"
    )
    state: State = Field("active", description="paused: changes wait in the hub; offboarding: they are not kept")
    labels: dict[Text, str] = Field({}, description="whatever helps to find it")
    contacts: tuple[Text, ...] = Field((), description="whom to ask, or to tell")

    @field_validator("id")
    @classmethod
    def _id_is_one(cls, value: str) -> str:
        if not 0 < len(value) <= LONGEST_COMPANY_ID or _NOT_TEXT.search(value):
            raise ValueError(
                f"company id {value[:40]!r}: must be 1 to {LONGEST_COMPANY_ID} characters of Unicode, without NUL"
            )
        return value

    @field_validator("database")
    @classmethod
    def _database_has_no_secret(cls, value: str | None) -> str | None:
        if value is not None:
            require_no_secret(value)
        return value

    @field_validator("groups")
    @classmethod
    def _groups_in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if EVERY_GROUP in value:
            return (EVERY_GROUP,)
        return (BASE_GROUP, *sorted(set(value) - {BASE_GROUP}))

    @field_validator("feeds")
    @classmethod
    def _feeds_in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(value)))


def said(error: ValidationError) -> str:
    """What is wrong with a company, in one line."""
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        text = str(problem["msg"]).removeprefix("Value error, ")
        field = ".".join(map(str, problem["loc"]))
        problems.append(text if field == "id" else f"{field}: {text}")
    return "; ".join(problems)
