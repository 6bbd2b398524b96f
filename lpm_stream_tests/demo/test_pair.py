"""The demo on a real Kafka broker and a real PostgreSQL, under a real Dagster."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from lpm_stream_tests.alerts.servers import free_port
from lpm_stream_tests.kafka.broker import KafkaBroker
from lpm_stream_tests.postgresql import Server

COMPANIES = 3


@pytest.mark.timeout(400)
def test_its_audit_is_clean_and_another_cannot_begin_in_its_midst(
    tmp_path: Path, broker: KafkaBroker, postgresql_server: Server
) -> None:
    hub = f"kafka://localhost:{broker.port}/tdr-{uuid.uuid4().hex}"
    databases = postgresql_server.url("PLACE").render_as_string().replace("PLACE", "demo_{company}")
    try:
        done = demo(tmp_path / "first", hub, databases)
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "first.json").read_text())
        assert result["clean"]
        assert result["committed"] == result["delivered"] > 0
        assert [one["delivered"] > 0 for one in result["companies"]] == [True] * COMPANIES
        assert {path.name for path in (tmp_path / "first").iterdir()}.isdisjoint({"hub", "companies"})
        names = postgresql_server.run("SELECT datname FROM pg_database WHERE datname LIKE 'demo%'")
        assert len(names) == COMPANIES
        second = demo(tmp_path / "second", hub, databases)
        assert second.returncode == 2
        assert "the hub has messages already" in second.stderr
        third = demo(tmp_path / "third", f"{hub}-new", databases)
        assert third.returncode == 2
        assert "company 'COMPANY-01' has rows already" in third.stderr
    finally:
        for (name,) in postgresql_server.run("SELECT datname FROM pg_database WHERE datname LIKE 'demo%'"):
            postgresql_server.run(f'DROP DATABASE "{name}" WITH (FORCE)')


def demo(home: Path, hub: str, databases: str) -> subprocess.CompletedProcess[str]:
    options = {
        "--for": "15",
        "--companies": str(COMPANIES),
        "--port": str(free_port()),
        "--dir": str(home),
        "--json": f"{home}.json",
        "--hub": hub,
        "--databases": databases,
    }
    command = [sys.executable, "-m", "lpm_stream", "demo", *(word for pair in options.items() for word in pair)]
    environment = os.environ | {"COLUMNS": "500"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
