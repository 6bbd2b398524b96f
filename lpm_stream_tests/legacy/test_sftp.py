"""Legacy files over a real SFTP server, from look to verdict."""

from datetime import timedelta
from pathlib import Path

import pytest

from lpm_stream.control import reconciliations
from lpm_stream.stream import Stream
from lpm_stream_tests.example import orders
from lpm_stream_tests.legacy.example import HOUR, commit, deliver, one, put
from lpm_stream_tests.legacy.sftp import USER, serving

ROWS = orders([f"k{number}" for number in range(20_000)], "A", ordered_at=HOUR.start + timedelta(minutes=5))


@pytest.fixture
def delivered(stream):
    commit(stream, ROWS)
    deliver(stream)
    put(stream, "A", ROWS)
    return stream


def test_a_connection_cut_mid_file_says_nothing_and_the_next_time_does(delivered, tmp_path):
    with serving(Path(delivered.settings.legacy_url), tmp_path) as server:
        settings = delivered.settings.model_copy(
            update={
                "legacy_url": f"sftp://{USER}@127.0.0.1:{server.port}/",
                "legacy_known_hosts": server.known_hosts,
                "legacy_key": f"file:{server.key}",
            }
        )
        remote = Stream(delivered.spec, settings, delivered.store, delivered.hub)
        server.cut_after = 1_000_000
        result = one(remote)
        assert (result.verdict, result.faults.unexplained) == ("unread", 0)
        assert "cannot be read: Connection lost" in (result.problem or "")
        assert reconciliations.read(remote.store, "orders") == []
        server.cut_after = None
        assert one(remote).verdict == "passed"
        assert len(reconciliations.read(remote.store, "orders")) == 1
