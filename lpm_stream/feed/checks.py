"""What a feed declares about the checks of its company tables."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Severity = Literal["WARN", "ERROR"]
CheckName = Literal[
    "not_parked",
    "nothing_quarantined",
    "fresh",
    "latency_slo",
    "complete_against_legacy",
    "sooner_than_legacy",
    "complete_against_source",
]

_HOUR, _DAY = 60, 24 * 60  # minutes


class Checks(BaseModel):
    """How strict the checks are. What concerns legacy files alone is declared with their format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warnings: frozenset[CheckName] = Field(
        frozenset({"nothing_quarantined", "sooner_than_legacy"}),
        description="checks whose failure is a warning, not an error; of complete_against_legacy, legacy says it",
    )
    stretch_seconds: float = Field(15, gt=0, description="commit to applied, at p99: hoped for, not promised")
    latency_window_seconds: float = Field(900, ge=60, description="latency is judged over this time")
    grace_seconds: float = Field(
        60, ge=0, description="for so long a company may be parked, or wait for its changes beyond the SLO"
    )
    quarantined_rows: int = Field(0, ge=0, description="so many rows in quarantine fail no check")
    look_back_hours: float = Field(
        168, gt=0, description="legacy files of earlier periods are neither compared by checks nor judged"
    )
    every_minutes: int = Field(
        5, gt=0, le=_DAY, description="the checks run so often for all companies, whether files come or not"
    )
    thorough_every_minutes: int = Field(
        60, gt=0, le=_DAY, description="so often complete_against_source does, which reads the whole source table"
    )

    @field_validator("every_minutes", "thorough_every_minutes")
    @classmethod
    def _fits_the_clock(cls, value: int) -> int:
        if _HOUR % value and (value % _HOUR or _DAY % value):
            raise ValueError(
                f"{value} minutes divide neither the hour nor, as whole hours, the day; choose others"
            )
        return value
