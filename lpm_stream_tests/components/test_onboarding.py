"""Companies taken in from Dagster."""

from typing import Any

import dagster as dg
import pytest

from lpm_stream.components.onboarding import onboard_job, onboard_sensor
from lpm_stream.components.partitions import partition_key
from lpm_stream.control import entries, registry
from lpm_stream.errors import LpmStreamError
from lpm_stream_tests.example import SPEC, append, assert_delivered, deliver, orders, publish

COMPANY = "it's / C%"


@pytest.fixture
def run(stream, instance: dg.DagsterInstance) -> Any:
    """Runs the job with a configuration."""
    append(stream.table, orders(["1", "2", "3"], ["A", COMPANY, COMPANY]))
    publish(stream)
    deliver(stream)

    def execute(**config: Any) -> dg.ExecuteInProcessResult:
        given = {"ops": {"onboard": {"config": config}}}
        return onboard_job([SPEC]).execute_in_process(instance=instance, run_config=given)

    return execute


@pytest.fixture
def tick(stream, instance: dg.DagsterInstance) -> Any:
    def evaluate(cursor: str | None = None) -> Any:
        with dg.build_sensor_context(instance, cursor) as context:
            return onboard_sensor([SPEC], onboard_job([SPEC])).evaluate_tick(context)

    return evaluate


def test_a_job_onboards(stream, instance, run):
    done = run(company=COMPANY, name="C & Co")
    assert instance.get_run_by_id(done.run_id).tags["company"] == COMPANY
    assert instance.get_dynamic_partitions("customer") == [partition_key(COMPANY)]
    assert entries.read(stream.store, COMPANY).company.name == "C & Co"
    assert_delivered(stream, [COMPANY])


def test_a_dry_run_does_nothing(stream, instance, run):
    run(company=COMPANY, dry_run=True)
    assert instance.get_dynamic_partitions("customer") == []
    assert registry.registered(stream.store) == ["A", "B"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"company": "A"}, "company 'A' is registered already"),
        ({"company": "X", "database": "postgresql://u:hush@h/d"}, "give a reference for it"),
        ({"company": "X", "groups": ["nope"]}, "groups: 'nope' is none of"),
    ],
)
def test_what_is_wrong_is_said(run, config, message):
    with pytest.raises(LpmStreamError, match=message) as caught:
        run(**config)
    assert "hush" not in str(caught.value)


def test_a_password_is_refused_before_dagster_stores_it(stream, tmp_path, monkeypatch):
    place = "postgresql://u:hush@h/d"
    monkeypatch.setenv("PLACE", place)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        for given in (place, {"env": "PLACE"}):
            config = {"ops": {"onboard": {"config": {"company": "X", "database": given}}}}
            with pytest.raises(LpmStreamError, match="database: the URL has a password") as caught:
                onboard_job([SPEC]).execute_in_process(config, instance)
            assert "hush" not in str(caught.value)
        assert instance.get_runs() == []
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"hush" in path.read_bytes()]
    assert kept == []


def test_a_database_may_be_named_by_dagster_s_env(stream, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", f"sqlite:///{tmp_path}/own.db")
    run(company=COMPANY, database={"env": "PLACE"})
    assert (tmp_path / "own.db").exists()


def test_a_partition_that_somebody_adds_is_onboarded(stream, instance, run, tick):
    instance.add_dynamic_partitions("customer", ["A", partition_key(COMPANY)])
    found = tick()
    [request] = found.run_requests
    assert request.tags["company"] == COMPANY
    assert not tick(found.cursor).run_requests  # it was asked for
    run(**request.run_config["ops"]["onboard"]["config"])
    assert_delivered(stream, [COMPANY])
    after = tick(found.cursor)
    assert not after.run_requests
    assert "registered company" in after.skip_message


def test_a_company_that_was_removed_is_not_taken_in_again(stream, instance, tick):
    entries.set_state(stream.store, "A", "offboarding")
    instance.add_dynamic_partitions("customer", ["A"])
    assert not tick().run_requests


def test_a_partition_that_is_no_key_is_said(instance, tick):
    instance.add_dynamic_partitions("customer", ["50%"])
    found = tick()
    assert not found.run_requests
    assert "'50%25' instead" in found.skip_message
