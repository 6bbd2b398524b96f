"""The Kafka client logs in to a real broker over TLS, as to the Kafka endpoint of Event Hubs, or says why not."""

import uuid
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest

from lpm_stream.errors import HubError, LpmStreamError
from lpm_stream.hub import kafka, kafka_reader
from lpm_stream.hub.kafka import KafkaHub
from lpm_stream.hub.kafka_topic import Topic, topic
from lpm_stream.settings import Settings
from lpm_stream.stream import open_hub
from lpm_stream_tests.hub.messages import message
from lpm_stream_tests.kafka.broker import PASSWORD, USER, KafkaBroker

WRONG = PASSWORD.replace("Q==", "R==")


@pytest.fixture
def login(broker: KafkaBroker, tmp_path: Path) -> dict[str, str]:
    """What the URL says behind the topic."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    return {
        "security": "SASL_SSL",
        "username": USER,
        "password": f"file:{password}",
        "ca": str(broker.certificate),
    }


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does not wait long for what does not come."""
    for module, name in ((kafka, "_ASK_SECONDS"), (kafka_reader, "_LOOK_SECONDS"), (kafka, "_SEND_SECONDS")):
        monkeypatch.setattr(module, name, 0.5)


def place(broker: KafkaBroker, host: str = "localhost") -> str:
    return f"//{host}:{broker.sasl_port}/tdr-{uuid.uuid4().hex}"


def refusal(place: str, login: dict[str, str]) -> str:
    with pytest.raises(HubError) as caught:
        open_hub(Settings(hub_url=f"kafka:{place}?{urlencode(login)}"))
    says = str(caught.value)
    assert "\n" not in says
    assert f"{place.removeprefix('//').partition('/')[0]} cannot be opened" in says
    return says


def test_what_is_sent_over_tls_with_a_login_is_received(broker, login):
    url = f"kafka:{place(broker)}?{urlencode(login)}"
    with closing(open_hub(Settings(hub_url=url, hub_partitions=1))) as hub:
        hub.send([message("A", version) for version in range(3)])
        assert [one.message.version for one in hub.receive(0, 0, 10)] == [0, 1, 2]
        assert hub.end(0) == 3


def test_a_wrong_password_is_said_but_not_shown(broker, login, tmp_path, monkeypatch):
    hurry(monkeypatch)
    (tmp_path / "password").write_text(WRONG)
    says = refusal(place(broker), login)
    assert "Invalid username or password" in says
    assert "SharedAccessKey" not in says


def test_a_certificate_that_nobody_trusts_is_refused(broker, login, monkeypatch):
    hurry(monkeypatch)
    del login["ca"]
    assert "certificate verify failed: it has to be valid" in refusal(place(broker), login)


def test_a_certificate_for_another_host_is_refused(broker, login, monkeypatch):
    hurry(monkeypatch)
    assert "certificate verify failed: it has to be valid" in refusal(place(broker, "127.0.0.1"), login)


def test_a_login_that_no_longer_holds_is_said_by_each_call(broker, login, monkeypatch):
    found = topic(f"{place(broker)}?{urlencode(login)}")
    settings = dict(found.login)
    with closing(KafkaHub(Topic(found.servers, found.name, settings), 1)) as hub:
        settings["sasl.password"] = WRONG  # clients that are opened from now on
        hurry(monkeypatch)
        with pytest.raises(HubError, match=r"1 not confirmed within .* username or password") as send:
            hub.send([message("A", 1)])
        with pytest.raises(HubError, match=r"partition 0, cannot be read: .* username or password") as receive:
            hub.receive(0, 0, 1)
        assert "SharedAccessKey" not in f"{send.value}{receive.value}"


def test_a_ca_file_that_went_away_is_said_by_each_call(broker, login, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(broker.certificate.read_bytes())
    with closing(KafkaHub(topic(f"{place(broker)}?{urlencode(login | {'ca': str(ca)})}"), 1)) as hub:
        ca.unlink()
        for call in (lambda: hub.send([message("A", 1)]), lambda: hub.receive(0, 0, 1)):
            with pytest.raises(HubError, match=r"cannot be opened: .* ssl\.ca\.location failed"):
                call()


def test_a_mechanism_that_there_is_not_is_said(login):
    assert "Unsupported SASL mechanism: NONE" in refusal("//localhost:1/tdr", login | {"mechanism": "NONE"})


def test_a_ca_file_that_is_not_there_is_said(login):
    with pytest.raises(LpmStreamError, match="ca: there is no file /nowhere"):
        open_hub(Settings(hub_url=f"kafka://localhost:1/tdr?{urlencode(login | {'ca': '/nowhere.pem'})}"))
