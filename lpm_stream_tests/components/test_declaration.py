"""What the tools say about a feed's declaration, in a small project of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RIGHT = """\
type: lpm_stream.components.Feed

attributes:
  name: orders
  description: Orders
  source_table: orders_gold
  company_column: customer
  primary_key: [id]
  event_time_column: ordered_at
  columns:
    - {name: id, type: string, nullable: false, description: key}
    - {name: customer, type: string, nullable: false, max_length: 450, description: company}
    - {name: ordered_at, type: timestamp, nullable: false, description: event time}
"""
PYPROJECT = """\
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"

[tool.dg.cli.telemetry]
enabled = false
"""
DEFINITIONS = """\
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
LOAD = """\
import json, sys
from lpm_stream.definitions import defs
defs().get_repository_def()
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one feed, rightly declared."""
    feed = tmp_path / "shop" / "defs" / "orders"
    feed.mkdir(parents=True)
    (feed / "defs.yaml").write_text(RIGHT)
    (feed / "simulate.py").write_text("raise RuntimeError('this is no definition')\n")
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return tmp_path


def check(project: Path, what: str) -> tuple[int, str]:
    """Exit code and output of `dg check`."""
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), "check", what],
        cwd=project,
        env=os.environ | {"DAGSTER_HOME": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_right_declaration_passes(project):
    assert check(project, "defs")[0] == 0


def test_a_wrong_declaration_names_file_line_and_field(project):
    path = project / "shop" / "defs" / "orders" / "defs.yaml"
    path.write_text(RIGHT.replace("source_table", "source_tabel").replace("type: timestamp", "type: datetime"))
    code, output = check(project, "yaml")
    assert code == 1
    assert f"{path}:6 - lpm_stream.components.Feed attributes.source_tabel" in output
    assert "'source_table' is a required property" in output
    assert f"{path}:13 - lpm_stream.components.Feed attributes.columns.2.type 'datetime' is not one of" in output


def test_columns_that_do_not_fit_together_name_file_field_and_fix(project):
    path = project / "shop" / "defs" / "orders" / "defs.yaml"
    path.write_text(RIGHT.replace("company_column: customer", "company_column: custmer"))
    code, output = check(project, "defs")
    assert code == 1
    assert f"attributes at {path}:3" in output
    assert "company_column: 'custmer' is not among the columns; declare it or correct the name" in output


def test_loading_the_definitions_loads_no_simulator_and_no_audit():
    loaded = subprocess.run([sys.executable, "-c", LOAD], stdout=subprocess.PIPE, text=True, check=True)
    modules = set(json.loads(loaded.stdout))
    assert modules.isdisjoint({"lpm_stream.defs.tdr.simulate", "lpm_stream.audit", "pandas", "duckdb", "alembic"})
