"""Companies taken in from Dagster: a job for people, and a sensor for partitions that people add."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from dagster._config.config_type import ScalarUnion
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lpm_stream.components.actor import acting
from lpm_stream.components.cursors import read_cursor
from lpm_stream.components.partitions import add_partition, company_id, partition_key
from lpm_stream.components.stopping import until_told_to_stop
from lpm_stream.components.tags import COMPANY_TAG, tag_company
from lpm_stream.control import entries
from lpm_stream.control.company import Company, said
from lpm_stream.database_url import require_no_secret
from lpm_stream.errors import LpmStreamError
from lpm_stream.feed.spec import BASE_GROUP, FeedSpec
from lpm_stream.sensing import ONBOARD_JOB, ONBOARD_OP, ONBOARD_SENSOR
from lpm_stream.settings import Settings
from lpm_stream.stream import Stream, open_stream

_LOOK_SECONDS = 10
_TEXT: Any = dg.StringSource  # untyped


class OnboardConfig(dg.Config):
    """Whom to take in. The defaults are right for a company like the others."""

    company: str = Field(description="The company's id: its value in the feeds' company column.")
    name: str = Field(default="", description="Its name, for people.")
    database: str = Field(
        default="",
        description="Its database: a URL without password, since Dagster keeps what is written here (one with a "
        "password is refused before that), {company} in it stands for the id; or env:NAME, file:PATH or "
        "keyvault:VAULT/SECRET, where the URL is. Empty: as LPM_STREAM_DATABASE_TEMPLATE says.",
    )
    feeds: list[str] = Field(default=[], description="The feeds it receives; none: every feed.")
    groups: list[str] = Field(
        default=[BASE_GROUP],
        description="The groups of columns that it is entitled to; `all`: every one. A company without a group "
        "does not get its columns.",
    )
    slo_seconds: float = Field(
        default=0, description="Promised to it from commit to applied; 0: as its feed says."
    )
    labels: dict[str, str] = Field(default={}, description="Whatever helps to find it, such as region: east.")
    contacts: list[str] = Field(default=[], description="Whom to ask, or to tell.")
    dry_run: bool = Field(default=False, description="Only log what would be done.")


class _Place(ScalarUnion):
    """Where a database is, as text or as Dagster's `env`.

    Dagster has the code location resolve a configuration before it stores a run with it; what pydantic refuses, or
    the op, is stored by then.
    """

    def __init__(self) -> None:
        super().__init__(str, _TEXT.non_scalar_type, _key="DatabasePlace")

    def post_process(self, value: Any) -> Any:
        """Refuses a URL with a password; not with Dagster's own error, which would repeat it."""
        resolved = _TEXT.post_process(value)
        try:
            if resolved:
                require_no_secret(resolved)
        except ValueError as error:
            raise LpmStreamError(f"database: {error}") from None
        return resolved


def _schema() -> dict[str, dg.Field]:
    fields = OnboardConfig.to_fields_dict()
    description = fields["database"].description
    return fields | {"database": dg.Field(_Place(), default_value="", description=description)}


def onboard_job(specs: Sequence[FeedSpec]) -> dg.JobDefinition:
    """Onboards a company."""

    @dg.op(
        name=ONBOARD_OP, config_schema=_schema(), description="Takes a company in, step by step; can be repeated."
    )
    def run(context: dg.OpExecutionContext) -> None:
        config = OnboardConfig(**context.op_config)
        tag_company(context, config.company)
        with acting(context):
            onboard_now(specs, context, config)

    @dg.job(
        name=ONBOARD_JOB,
        description=(
            "Makes a company a customer: its database (created where allowed) with its table, the registry, its "
            "partition, its history, the stream, its first checks. Nothing is registered before its database has "
            "answered. If a step fails, the run says which, why and what to do; run it again then, it goes on "
            "from there. On the command line: `lpm-stream companies add`."
        ),
    )
    def job() -> None:
        run()

    return job


def onboard_now(specs: Sequence[FeedSpec], context: dg.OpExecutionContext, config: OnboardConfig) -> None:
    """Onboards the company of a run's configuration.

    Raises:
        LpmStreamError: as `onboard` does, and if a check of the company fails that people have to act on.
    """
    from lpm_stream.onboard import Order, failed, onboard, plan  # noqa: PLC0415 - it brings what checks need

    def tell(step: str, what: str) -> None:
        context.log.info("%s: %s", step, what)

    with _opened(specs) as streams:
        order = Order(
            _company(config),
            streams,
            lambda stream, company: add_partition(stream, company, context.instance),
            tell,
            until_told_to_stop,
            _progress(tell),
        )
        if config.dry_run:
            for step, what in plan(order):
                tell(step, what)
            return
        results = onboard(order)
    tell("checks", f"{sum(one.passed for one in results)} of {len(results)} passed")
    for name, what in failed(results).items():
        context.log.error("check %s: %s", name, what)
    if bad := failed(results):
        raise LpmStreamError(f"company {config.company!r} is onboarded, but {', '.join(bad)} failed: see the log")


def onboard_sensor(specs: Sequence[FeedSpec], job: dg.JobDefinition) -> dg.SensorDefinition:
    """Onboards companies that somebody has added as partitions."""

    @dg.sensor(
        name=ONBOARD_SENSOR,
        job=job,
        minimum_interval_seconds=_LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Sees partitions that somebody has added and that are no registered company, and starts job "
            f"`{ONBOARD_JOB}` for each, with its defaults. A company that was removed is not taken in again "
            f"this way."
        ),
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return onboard_tick(specs, context)

    return watch


class Cursor(BaseModel):
    """The keys of new partitions for which a run was asked; each is asked for once."""

    model_config = ConfigDict(frozen=True)

    asked: tuple[str, ...] = ()


def onboard_tick(specs: Sequence[FeedSpec], context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for a run for each new partition.

    Raises:
        LpmStreamError: if the control store cannot be opened, or the cursor not be read.
    """
    cursor = read_cursor(Cursor, context.cursor) if context.cursor else Cursor()
    names = sorted({spec.company_column for spec in specs})
    keys = {key for name in names for key in context.instance.get_dynamic_partitions(name)}
    with _opened(specs[:1]) as [stream]:
        known = {partition_key(entry.company.id) for entry in entries.read_all(stream.store)}
    unfit = sorted(key for key in keys - known if partition_key(company_id(key)) != key)
    new = sorted(keys - known - set(unfit))
    requests = [_request(key) for key in new if key not in cursor.asked]
    after = Cursor(asked=tuple(new)).model_dump_json()
    if not requests:
        what = "every partition is a registered company, or was asked for before"
        if unfit:
            what = f"partition {unfit[0]!r} is no company's: delete it and add {partition_key(unfit[0])!r} instead"
        return dg.SensorResult(cursor=after, skip_reason=what)
    return dg.SensorResult(cursor=after, run_requests=requests)


def _request(key: str) -> dg.RunRequest:
    company = company_id(key)
    config = dg.RunConfig(ops={ONBOARD_OP: OnboardConfig(company=company)})
    return dg.RunRequest(run_config=config, tags={COMPANY_TAG: company})


def _company(config: OnboardConfig) -> Company:
    try:
        return Company(
            id=config.company,
            name=config.name,
            database=config.database or None,
            feeds=tuple(config.feeds),
            groups=tuple(config.groups),
            slo_seconds=config.slo_seconds or None,
            labels=dict(config.labels),
            contacts=tuple(config.contacts),
        )
    except ValidationError as error:
        raise LpmStreamError(said(error)) from None


def _progress(tell: Callable[[str, str], None]) -> Callable[[int, int], None]:
    """Tells at each tenth how far a load is."""
    told = 0

    def progress(rows: int, total: int) -> None:
        nonlocal told
        tenth = rows * 10 // max(total, 1)
        if tenth > told:
            told = tenth
            tell("history", f"{rows:,} of {total:,} rows")

    return progress


@contextmanager
def _opened(specs: Sequence[FeedSpec]) -> Iterator[list[Stream]]:
    settings = Settings.load()
    with ExitStack() as stack:
        yield [stack.enter_context(open_stream(settings, spec)) for spec in specs]
