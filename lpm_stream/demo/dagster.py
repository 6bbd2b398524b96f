"""Dagster's webserver and daemon as the demo's children."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, RunsFilter
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from lpm_stream.errors import LpmStreamError
from lpm_stream.settings import Settings

_LOCATION = "lpm_stream"
_PROJECT = Path(__file__).parents[2]
_STOP_SECONDS = 15
_TICKS = """
query Ticks($location: String!, $since: Float!) {
  sensorsOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: $location}) {
    ... on Sensors { results { sensorState { ticks(limit: 10000, afterTimestamp: $since) { status } } } }
  }
}
"""
_CHECKED = """
  {name}: assetCheckExecutions(assetKey: $asset, checkName: "{name}", limit: $limit) {{
    evaluation {{ partition success severity }}
  }}
"""
_RUN_CHECKS = """
mutation Run($selector: JobOrPipelineSelector!, $config: RunConfigData!) {
  launchRun(executionParams: {selector: $selector, runConfigData: $config}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
  }
}
"""
_RUN = """
query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }
"""
_RUNS = """
query Runs($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results { runId } } } }
"""
_END_RUNS = """
mutation End($ids: [String!]!) {
  terminateRuns(runIds: $ids, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename }
}
"""
_MORE_RESULTS = 100  # than companies: of runs for some of them since the last for all


@dataclass(frozen=True)
class Checked:
    """The newest result of a check and partition. `severity` is that of a failure."""

    name: str
    partition: str
    passed: bool
    severity: str


@dataclass(frozen=True)
class Dagster:
    """A running webserver and daemon."""

    url: str
    logs: Path
    processes: dict[str, subprocess.Popen[bytes]]
    started_at: float

    def require_alive(self) -> None:
        """Checks that both processes run.

        Raises:
            LpmStreamError: naming the one that does not, and its log.
        """
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = self.logs / f"{name}.log"
                raise LpmStreamError(f"{name} ended with exit code {process.returncode}; see {log}")

    def ticks(self) -> int:
        """The number of sensor ticks that have ended well since it was started."""
        variables = {"location": _LOCATION, "since": self.started_at}
        sensors = self._ask(_TICKS, variables)["sensorsOrError"]["results"]
        states = [tick["status"] for sensor in sensors for tick in sensor["sensorState"]["ticks"]]
        return sum(state in {"SUCCESS", "SKIPPED"} for state in states)

    def checked(self, asset: Sequence[str], names: Collection[str], partitions: int) -> list[Checked]:
        """The newest results of an asset's checks, in their order and by partition.

        Args:
            asset: the asset's key.
            names: of the checks.
            partitions: how many there are.
        """
        fields = "".join(_CHECKED.format(name=name) for name in names)
        query = f"query Checked($asset: AssetKeyInput!, $limit: Int!) {{ {fields} }}"
        found = self._ask(query, {"asset": {"path": list(asset)}, "limit": 2 * partitions + _MORE_RESULTS})
        newest: dict[tuple[str, str], Checked] = {}
        for name in names:
            for one in found[name]:  # the newest first
                result = one["evaluation"]
                if result is not None:
                    key = name, result["partition"]
                    newest.setdefault(key, Checked(*key, result["success"], result["severity"]))
        return list(newest.values())

    def run_checks(self, job: str) -> str:
        """Starts the job that runs the checks of all companies, as somebody would by hand; returns the run's id.

        Raises:
            LpmStreamError: if it does not start.
        """
        place = {"repositoryName": "__repository__", "repositoryLocationName": _LOCATION, "jobName": job}
        done = self._ask(_RUN_CHECKS, {"selector": place, "config": {}})["launchRun"]
        if "run" not in done:
            raise LpmStreamError(f"job {job} does not start: {done['__typename']}; see the logs in {self.logs}")
        return str(done["run"]["runId"])

    def has_ended(self, run: str) -> bool:
        """Whether a run has ended well.

        Raises:
            LpmStreamError: if it has not, and never will.
        """
        status = self._ask(_RUN, {"id": run})["runOrError"].get("status")
        if status in {"FAILURE", "CANCELED"}:
            raise LpmStreamError(f"run {run} ended as {status}; see it in {self.url}/runs/{run}")
        return bool(status == "SUCCESS")

    def end_runs(self) -> None:
        """Ends the runs in hand as somebody would by hand: stopped with everything else, they would fail."""
        running = {"filter": {"statuses": [status.value for status in IN_PROGRESS_RUN_STATUSES]}}
        if ids := [run["runId"] for run in self._ask(_RUNS, running)["runsOrError"]["results"]]:
            self._ask(_END_RUNS, {"ids": ids})

    def _ask(self, query: str, variables: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own webserver
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)["data"]


@contextmanager
def running_dagster(
    settings: Settings, port: int, variables: Mapping[str, str] | None = None
) -> Iterator[Dagster]:
    """Starts Dagster on the settings' home directory and stops it at the end.

    Args:
        settings: everything is kept below their home.
        port: of the webserver, on localhost.
        variables: of its environment, besides those of this process.

    Raises:
        LpmStreamError: if the port is taken or the project's files are not there.
    """
    _require_free(port)
    home, logs = settings.home / "dagster", settings.home / "logs"
    for folder in (home, logs):
        folder.mkdir(parents=True, exist_ok=True)
    if not (_PROJECT / "dagster.yaml").exists():
        raise LpmStreamError("the demo needs dagster.yaml and workspace.yaml of the project: run it from a clone")
    shutil.copy(_PROJECT / "dagster.yaml", home)
    # Makes Dagster's own databases: webserver and daemon would race to do it, and one of them lose.
    with DagsterInstance.from_config(str(home)) as instance:
        for run in instance.get_runs(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES)):
            instance.report_run_canceled(run)  # its process ended with the Dagster before: that is no failure
    workspace = str(_PROJECT / "workspace.yaml")
    commands = {
        "webserver": ["dagster-webserver", "-w", workspace, "-h", "127.0.0.1", "-p", str(port)],
        "daemon": ["dagster-daemon", "run", "-w", workspace],
    }
    url = f"http://localhost:{port}"
    places = {
        "DAGSTER_HOME": str(home),
        "LPM_STREAM_HOME": str(settings.home),
        "LPM_STREAM_HUB_URL": settings.hub_url,
        "LPM_STREAM_DATABASE_TEMPLATE": settings.database_template,
        "LPM_STREAM_DAGSTER_URL": url,
    }
    environment = os.environ | places | dict(variables or {})
    dagster = Dagster(url, logs, {}, time.time())
    try:
        for name, command in commands.items():
            dagster.processes[name] = _start(command, environment, logs / f"{name}.log")
        yield dagster
    finally:
        _stop(list(dagster.processes.values()))


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name(command[0])
    with log.open("ab") as output:
        # A session of its own, so that Ctrl-C reaches the demo alone, which then stops everything in order.
        return subprocess.Popen(  # noqa: S603 - our own command line
            [program, *command[1:]],
            env=environment,
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends processes and all that they have started."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of the group has ended
        os.killpg(process.pid, number)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LpmStreamError(f"port {port} is taken ({error.strerror}); choose another with --port") from error
