"""Where everything is: one typed settings object, filled from environment variables."""

import hashlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Self

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lpm_stream.errors import LpmStreamError

_PLAIN_FILE_NAME = re.compile(r"[A-Z0-9_-]{1,57}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class Settings(BaseSettings):
    """The settings; each field `x` is the environment variable `LPM_STREAM_X`.

    References are as in `secret.resolve`; the hub's URL and those of databases may be references as well.
    """

    model_config = SettingsConfigDict(env_prefix="LPM_STREAM_", frozen=True, extra="forbid")

    home: Path = Field(Path(".lpm_stream"), description="the directory under which the program keeps everything")
    tables_url: str = Field("", description="folder or URL that holds the source tables; default HOME/tables")
    hub_url: str = Field("", description="the hub; default local:HOME/hub")
    hub_partitions: int = Field(
        4, ge=1, le=32, description="partitions of a local hub or Kafka topic when it is created"
    )
    hub_retention_hours: float = Field(72, gt=0, description="how long the local hub keeps messages")
    control_url: str = Field(
        "", description="SQLAlchemy URL of the control store, SQLite or PostgreSQL; default sqlite in HOME"
    )
    database_template: str = Field(
        "",
        description="URL of a company's database, with {company}; default a SQLite file in HOME/companies. "
        "postgresql://USER@HOST/lpm_{company} is a database for each company, made if the role may do so",
    )
    legacy_url: str = Field(
        "", description="folder or URL (sftp://USER@HOST/PATH) of the legacy files; default HOME/legacy"
    )
    legacy_known_hosts: Path = Field(
        Path("~/.ssh/known_hosts"), description="the host keys that an sftp:// server must have one of"
    )
    legacy_key: str = Field("", description="the private key for sftp://, by reference")
    legacy_password: str = Field("", description="the password for sftp:// where there is no key, by reference")
    alert_urls: str = Field(
        "",
        description="where alerts go: references to Apprise URLs (mailto://, slack://, "
        "msteams://, jsons:// and so on), with blanks between them",
    )
    alert_reminder_hours: float = Field(4, gt=0, description="pause between reminders of an open incident")
    alert_calm_seconds: float = Field(
        120, ge=0, description="how long a cause has to be gone before its incident is resolved"
    )
    dagster_url: str = Field(
        "http://localhost:3000", description="address of Dagster's UI, for the links in alerts"
    )
    user: str = Field("", description="who works here, for the audit beside the account and host")
    ledger_days: float = Field(
        14, ge=1, description="how long the ledger keeps each minute; what is older is added up per day"
    )
    dagster_event_days: float = Field(
        1, gt=0, description="how long Dagster keeps what the sensors report; the newest stays"
    )
    dagster_run_days: float = Field(
        7, gt=0, description="how long Dagster keeps finished runs, evaluations of checks, and ticks"
    )
    slots: int = Field(4, ge=1, description="company databases written at the same time")
    poll_seconds: float = Field(0.05, gt=0, description="pause before looking again when there was nothing to do")
    tick_seconds: float = Field(14, gt=0, lt=55, description="how long one Dagster sensor tick drains")

    @classmethod
    def load(cls, home: Path | None = None) -> Self:
        """The settings of the environment, with `home` (a command's `--dir`) taking precedence."""
        settings = cls() if home is None else cls(home=home)
        root = settings.home.expanduser().absolute()
        if unfit := set("?#%") & set(str(root)):
            raise LpmStreamError(f"directory {root}: choose one without {' '.join(sorted(unfit))} in its path")
        defaults = {
            "tables_url": str(root / "tables"),
            "hub_url": f"local:{root / 'hub'}",
            "control_url": f"sqlite:///{root / 'control.db'}",
            "legacy_url": str(root / "legacy"),
            "database_template": f"sqlite:///{root / 'companies'}/{{company}}.db",
        }
        missing = {name: value for name, value in defaults.items() if not getattr(settings, name)}
        return settings.model_copy(update={"home": root, **missing})

    @property
    def keep_ledger(self) -> timedelta:
        """How long the ledger keeps each minute."""
        return timedelta(days=self.ledger_days)

    @property
    def keep_dagster_events(self) -> timedelta:
        """How long Dagster keeps events outside runs."""
        return timedelta(days=self.dagster_event_days)

    @property
    def keep_dagster_runs(self) -> timedelta:
        """How long Dagster keeps runs."""
        return timedelta(days=self.dagster_run_days)

    def table_location(self, table: str) -> str:
        """Path or URL of a source table."""
        return f"{self.tables_url.rstrip('/')}/{table}"

    def database_url(self, company: str) -> str:
        """URL of a company's database where the registry names none."""
        return self.database_template.replace("{company}", safe_file_name(company))


def safe_file_name(company: str) -> str:
    """A file name for a company id: any text in, at most 57 of `[A-Za-z0-9_~-]` out, never two ids alike.

    That leaves room for a prefix where the name is that of a PostgreSQL database, which has at most 63.

    Ids that are plain already stay readable. All others, and those that a file system which ignores case
    could confuse, get a digest.
    """
    if _PLAIN_FILE_NAME.fullmatch(company):
        return company
    digest = hashlib.sha256(company.encode()).hexdigest()[:16]
    return f"{_UNSAFE.sub('_', company)[:40]}~{digest}"
