from datetime import UTC, datetime, timedelta

import asyncssh
import pytest

from lpm_stream.errors import LegacyError, LpmStreamError
from lpm_stream.legacy.location import Location, open_location
from lpm_stream.settings import Settings
from lpm_stream_tests.legacy.sftp import PASSWORD, USER, serving


@pytest.fixture
def root(tmp_path):
    (tmp_path / "served" / "out").mkdir(parents=True)
    return tmp_path / "served"


@pytest.fixture
def server(root, tmp_path):
    with serving(root, tmp_path) as running:
        yield running


@pytest.fixture
def sftp(server, tmp_path):
    return Settings(
        home=tmp_path,
        legacy_url=f"sftp://{USER}@127.0.0.1:{server.port}/out",
        legacy_known_hosts=server.known_hosts,
        legacy_key=f"file:{server.key}",
    )


def changed(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update=values)


def test_files_are_listed_and_read_with_a_key(root, sftp):
    (root / "out" / "A").mkdir()
    content = bytes(range(256)) * 8_000
    (root / "out" / "A" / "x.csv").write_bytes(content)
    (root / "out" / "A" / "deep").mkdir()
    (root / "out" / "A" / "deep" / "y.csv").write_bytes(b"")
    with open_location(sftp) as location:
        [entry] = location.entries(depth=2)
        assert (entry.path, entry.size) == ("A/x.csv", len(content))
        assert abs(entry.modified - datetime.now(UTC)) < timedelta(minutes=5)
        with location.reading("A/x.csv") as file:
            assert b"".join(iter(lambda: file.read(100_000), b"")) == content
        with location.writing("B/new.csv") as file:
            file.write(b"abc")
    assert (root / "out" / "B" / "new.csv").read_bytes() == b"abc"


def test_a_password_serves_as_well(root, sftp, monkeypatch):
    (root / "out" / "x").write_bytes(b"1")
    monkeypatch.setenv("SFTP_PASSWORD", PASSWORD)
    with open_location(changed(sftp, legacy_key="", legacy_password="env:SFTP_PASSWORD")) as location:
        assert [entry.path for entry in location.entries(1)] == ["x"]


def test_a_wrong_host_key_is_refused_before_anything_is_sent(server, sftp):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {other}\n")
    with pytest.raises(LegacyError, match="its host key is not the one in"), open_location(sftp):
        pass
    assert server.tried == 0


def test_an_unknown_host_is_refused(server, sftp):
    server.known_hosts.write_text("")
    with pytest.raises(LegacyError, match="its host key is not the one in"), open_location(sftp):
        pass
    assert server.tried == 0


def test_without_known_hosts_nothing_is_tried(server, sftp, tmp_path):
    with (
        pytest.raises(LpmStreamError, match="LPM_STREAM_LEGACY_KNOWN_HOSTS: there is no file"),
        open_location(changed(sftp, legacy_known_hosts=tmp_path / "nothing")),
    ):
        pass
    assert server.tried == 0


def test_a_wrong_key_is_refused(server, sftp):
    server.key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    with pytest.raises(LegacyError, match="cannot be reached: "), open_location(sftp):
        pass


def test_a_wrong_password_stays_secret(server, sftp, monkeypatch):
    monkeypatch.setenv("SFTP_PASSWORD", "hush-hush")
    with (
        pytest.raises(LegacyError) as caught,
        open_location(changed(sftp, legacy_key="", legacy_password="env:SFTP_PASSWORD")),
    ):
        pass
    assert "hush" not in str(caught.value)


def test_a_connection_cut_mid_file_is_an_error(root, server, sftp):
    (root / "out" / "x").write_bytes(b"0123456789" * 500_000)
    with open_location(sftp) as location:
        server.cut_after = 2_000_000
        with pytest.raises(LegacyError, match="legacy file 'x' cannot be read: "):
            read_all(location, "x")


def read_all(location: Location, path: str) -> None:
    with location.reading(path) as file:
        while file.read(1 << 20):
            pass


def test_a_server_that_is_down_is_an_error(sftp):
    with (
        pytest.raises(LegacyError, match="cannot be reached"),
        open_location(changed(sftp, legacy_url=f"sftp://{USER}@127.0.0.1:1/out")),
    ):
        pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"legacy_url": "sftp://u:secret@h/x"}, "holds a password; give LPM_STREAM_LEGACY_PASSWORD=env"),
        ({"legacy_url": "sftp://h/x"}, "give sftp://USER@HOST/PATH"),
        ({"legacy_key": ""}, "needs LPM_STREAM_LEGACY_KEY or LPM_STREAM_LEGACY_PASSWORD"),
        ({"legacy_key": "secret"}, "LPM_STREAM_LEGACY_KEY: give a reference"),
        ({"legacy_key": "env:NOT_THERE"}, "environment variable NOT_THERE is not set"),
        ({"legacy_key": "file:/not/there"}, "file /not/there cannot be read"),
        ({"legacy_key": "file:/dev/null"}, "is not a private key"),
        ({"legacy_url": "nonsense://x"}, "LPM_STREAM_LEGACY_URL: "),
    ],
)
def test_wrong_settings_say_what_to_do(sftp, values, message):
    with pytest.raises(LpmStreamError, match=message) as caught, open_location(changed(sftp, **values)):
        pass
    assert "secret" not in str(caught.value).replace("hold the secret", "").replace("to the secret", "")


def test_a_folder_that_is_not_there_has_no_files(tmp_path):
    with open_location(Settings.load(tmp_path)) as location:
        assert location.entries(3) == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../x", "a//x", "."])
def test_no_path_leads_out_of_the_location(tmp_path, path):
    with (
        open_location(Settings.load(tmp_path)) as location,
        pytest.raises(LegacyError, match="outside of the location"),
        location.reading(path),
    ):
        pass
