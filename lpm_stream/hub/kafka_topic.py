"""Where a Kafka topic is, and how its clients are set up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from lpm_stream.errors import LpmStreamError
from lpm_stream.secret import resolve

_EVENT_HUBS_PORT = 9093
_OPTIONS = ("security", "mechanism", "username", "password", "ca", "group", "replication", "retention_hours")
_GROUP = "lpm_stream"
_BROKERS_OWN = -1  # what `default.replication.factor` says, from Kafka 2.4 on (KIP-464)
_QUIET: Mapping[str, Any] = {
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 2_000,
    "log_level": 0,  # it writes to standard error by itself; what matters is in the errors we raise
    "client.id": "lpm_stream",
}


@dataclass(frozen=True)
class Topic:
    """A topic and how to reach it.

    Attributes:
        servers: `HOST:PORT`, several with commas in between.
        name: the topic's name.
        login: settings of the connection; they may hold a secret.
        replication: copies of a topic that is created here; -1 for as many as the brokers make by default.
        retention_hours: how long a topic that is created here keeps messages.
        group: what the ids of consumer groups begin with; the topic and the feed follow.
    """

    servers: str
    name: str
    login: Mapping[str, Any] = field(default_factory=dict, repr=False)
    replication: int = _BROKERS_OWN
    retention_hours: float = 72
    group: str = _GROUP

    def __str__(self) -> str:
        return f"Kafka topic {self.name} at {self.servers}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """Settings of a client; names with underscores for dots."""
        own = {name.replace("_", "."): value for name, value in more.items()}
        return {"bootstrap.servers": self.servers, **_QUIET, **self.login, **own}


def topic(location: str) -> Topic:
    """Reads what follows `kafka:` in a hub's URL.

    Args:
        location: `//HOST:PORT[,HOST:PORT]/TOPIC`, then, after a `?`, any of `security` (`SASL_SSL`, `SSL`),
            `mechanism` (default `PLAIN`), `username`, `password` (by reference), `ca` (a file), `group` (default
            `lpm_stream`), and `replication` (default: the brokers' own) and `retention_hours` (default 72) of a
            topic that is created. For the Kafka endpoint of Event Hubs `password` refers to the connection string;
            nothing else is needed.

    Raises:
        LpmStreamError: if it is not.
    """
    place, _, query = location.partition("?")
    options = dict(parse_qsl(query))
    servers, _, name = place.removeprefix("//").partition("/")
    if not (place.startswith("//") and servers and name):
        raise LpmStreamError("a Kafka hub is kafka://HOST:PORT/TOPIC")
    if unknown := set(options) - set(_OPTIONS):
        raise LpmStreamError(f"kafka: knows {', '.join(_OPTIONS)}, not {', '.join(sorted(unknown))}")
    try:
        replication = int(options.get("replication", _BROKERS_OWN))
        hours = float(options.get("retention_hours", "72"))
    except ValueError as error:
        raise LpmStreamError("kafka: replication and retention_hours are numbers") from error
    group = options.get("group", _GROUP)
    return Topic(servers, name, _login(servers, options), replication, hours, group)


def _login(servers: str, options: Mapping[str, str]) -> dict[str, Any]:
    login: dict[str, Any] = {}
    if "password" in options:
        is_event_hubs = servers.endswith(f".servicebus.windows.net:{_EVENT_HUBS_PORT}")
        login = {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": options.get("mechanism", "PLAIN"),
            "sasl.username": options.get("username", "$ConnectionString" if is_event_hubs else ""),
            "sasl.password": resolve(options["password"], "LPM_STREAM_HUB_URL, password"),
        }
    if "security" in options:
        login["security.protocol"] = options["security"]
    if "ca" in options:
        if not Path(options["ca"]).is_file():  # the client would not say which
            raise LpmStreamError(f"kafka: ca: there is no file {options['ca']}")
        login["ssl.ca.location"] = options["ca"]
    return login
