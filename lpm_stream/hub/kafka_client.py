"""Opens the clients of a Kafka topic, and finds out why they cannot use it.

A call that fails for want of a connection does not say why there is none: a client reports that aside, to a
callback that runs when it is polled. Clients that live long have none, since reports of a client that nobody polls
pile up (seen: 19 a second). So where a call says nothing, a new client is asked, for that only.
"""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from lpm_stream.errors import HubError
from lpm_stream.hub.kafka_topic import Topic

_ASK_SECONDS = 2.0  # whoever reads a partition waits for the answer
_KNOWN_SECONDS = 30.0  # how long an answer holds
_TRY_SECONDS = 0.5
_SAYS_NOTHING = {
    KafkaError._TRANSPORT,  # noqa: SLF001 - that is how they are called
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    KafkaError._TIMED_OUT,  # noqa: SLF001
}
PASSING = {
    *_SAYS_NOTHING,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,  # of brokers to which a new topic has not got around
}
"""What a client gets over by itself."""

C = TypeVar("C")


def opened(kind: Callable[[dict[str, Any]], C], topic: Topic, **settings: Any) -> C:
    """A client; it connects by itself, later.

    Args:
        kind: its class.
        topic: where.
        settings: its settings, with underscores for dots.

    Raises:
        HubError: if it cannot work with its settings, such as with what is in a file.
    """
    try:
        return kind(topic.settings(**settings))
    except KafkaException as error:
        raise HubError(f"{topic} cannot be opened: {reason(topic, error)}") from error


def reason(topic: Topic, error: BaseException) -> str:
    """Why a call failed.

    Args:
        topic: where.
        error: what it raised.
    """
    return Reasons(topic).of(error)


class Reasons:
    """Why calls fail, for who makes many."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._asked_at = -math.inf
        self._known = ""

    def of(self, error: BaseException) -> str:
        """Why a call failed that raised this; the same as a moment ago where it does not say."""
        cause = error.args[0] if error.args else error
        if not isinstance(cause, KafkaError):
            return str(cause)
        if cause.code() not in _SAYS_NOTHING:
            return cause.str()
        if time.monotonic() - self._asked_at > _KNOWN_SECONDS:
            self._known = no_connection(self._topic)
            self._asked_at = time.monotonic()
        return self._known or cause.str()


def no_connection(topic: Topic) -> str:
    """What keeps a new client from connecting; empty if nothing does, or nothing is said within some seconds.

    Raises:
        HubError: if there can be no new client.
    """
    reports: list[KafkaError] = []

    def that_reports(settings: dict[str, Any]) -> AdminClient:
        settings["error_cb"] = reports.append
        return AdminClient(settings)

    client = opened(that_reports, topic)
    deadline = time.monotonic() + _ASK_SECONDS
    while time.monotonic() < deadline:
        try:
            client.list_topics(timeout=_TRY_SECONDS)
        except KafkaException:
            client.poll(0)
        else:
            return ""
        for report in reports:
            if report.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                return _clear(report.str())
    return ""


def _clear(report: str) -> str:
    if "certificate verify failed" not in report:
        return report
    place = report.partition(": ")[0]  # the rest is the same for all causes, and speaks of the client's settings
    return (
        f"{place}: certificate verify failed: it has to be valid, for this host, and signed by one that the "
        f"system trusts or that is in the file `ca` of the hub's URL"
    )
