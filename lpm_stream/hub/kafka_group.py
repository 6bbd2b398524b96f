"""A member of a Kafka consumer group: the group says which partitions are its share.

That is all that the group is for: places are kept in the company databases and the control store, and messages are
read by readers of their own. So nothing is fetched or committed here.
"""

import logging
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from lpm_stream.errors import HubError
from lpm_stream.hub.kafka_client import PASSING, opened, reason
from lpm_stream.hub.kafka_topic import Topic

log = logging.getLogger(__name__)

# Who is not heard of for so long is out, and the others get what it had; brokers and Event Hubs take 6 s or more.
_SESSION_MILLISECONDS = 10_000
_HEARTBEAT_MILLISECONDS = 1_000
_PAUSE_MILLISECONDS = 30_000  # likewise who does not ask for so long; all wait for it where the group assigns anew


class KafkaGroup:
    """A member of one group."""

    def __init__(self, topic: Topic, name: str) -> None:
        """Joins the group, later, by itself.

        Args:
            topic: what is shared.
            name: the group's id.

        Raises:
            HubError: if it cannot work with the topic's settings, or its name.
        """
        self._topic = topic
        self._place = f"{topic}, consumer group {name}"
        self._assigned: frozenset[int] = frozenset()
        self._told: set[int] = set()
        self._consumer = opened(
            Consumer,
            topic,
            group_id=name,
            enable_auto_commit=False,
            partition_assignment_strategy="roundrobin",
            session_timeout_ms=_SESSION_MILLISECONDS,
            heartbeat_interval_ms=_HEARTBEAT_MILLISECONDS,
            max_poll_interval_ms=_PAUSE_MILLISECONDS,
        )
        try:
            self._consumer.subscribe([topic.name], on_assign=self._assign, on_lost=self._lose)
        except KafkaException as error:
            raise HubError(f"{self._place} cannot be joined: {reason(topic, error)}") from error

    def assigned(self) -> frozenset[int]:
        """The partitions that were assigned last; none before that, and once it is found to be out.

        It is to be asked often: what the group says is heard here. While that assigns anew, those of before stay.

        Raises:
            HubError: if the client fails.
        """
        try:
            while (record := self._consumer.poll(0)) is not None:
                if (error := record.error()) is not None:
                    self._tell(error)
        except KafkaException as error:
            raise HubError(f"{self._place}: {reason(self._topic, error)}") from error
        return self._assigned

    def close(self) -> None:
        """Leaves the group, which then assigns anew."""
        self._consumer.close()

    def _tell(self, error: KafkaError) -> None:
        if error.code() in PASSING or error.code() in self._told:
            return
        self._told.add(error.code())
        log.warning("%s: %s; what it assigns to nobody is split all the same", self._place, error.str())

    def _assign(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self._assigned = frozenset(place.partition for place in places)
        consumer.assign([])  # so that nothing is fetched

    def _lose(self, _consumer: Consumer, _places: Sequence[TopicPartition]) -> None:
        self._assigned = frozenset()
