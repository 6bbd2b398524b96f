import json
from datetime import UTC, datetime

from lpm_stream.cli.common import write_json
from lpm_stream.control import leases, parking
from lpm_stream.status import read_status
from lpm_stream_tests.example import SPEC
from torture.seen import Seen


def test_what_is_asked_about_is_the_company_and_not_just_any(stream, tmp_path):
    state = parking.park("A", 0, 1, datetime.now(UTC), "database is locked")
    with stream.store.write() as connection:
        parking.write_parked(connection, SPEC.name, "A", state)
    for holder in ("one", "another"):
        name = leases.lease_name("deliver", f"{SPEC.name}:{holder}")
        leases.acquire(stream.store, name, leases.worker_name(holder))
    write_json(tmp_path / "status.json", read_status(stream))
    seen = Seen(json.loads((tmp_path / "status.json").read_text()))
    assert seen.is_parked("A", "is locked")
    assert not seen.is_parked("A", "full")
    assert not seen.is_parked("B")
    assert not seen.is_parked("nobody")
    assert seen.company("B")["quarantined"] == 0
    assert seen.company("nobody") == {}
    assert seen.workers("publisher") == []
    assert [name.partition("@")[0] for name in seen.workers("deliverer")] == ["another", "one"]
    assert not seen.says("cannot be opened")
