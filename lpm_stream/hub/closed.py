"""A hub that could not be opened, for whoever looks at all else all the same."""

from collections.abc import Sequence
from typing import NoReturn

from lpm_stream.errors import HubError, LpmStreamError
from lpm_stream.hub.message import Message, Received


class ClosedHub:
    """Says why it could not be opened, whatever it is asked."""

    def __init__(self, why: LpmStreamError) -> None:
        self._why = str(why)

    @property
    def max_body_bytes(self) -> int:
        """None can be told."""
        self._fail()

    def partitions(self) -> Sequence[int]:
        """None can be told."""
        self._fail()

    def partition_of(self, company: str) -> int:  # noqa: ARG002 - as of every hub
        """None can be told."""
        self._fail()

    def send(self, messages: Sequence[Message]) -> None:  # noqa: ARG002
        """Takes none."""
        self._fail()

    def receive(self, partition: int, after: int, max_messages: int) -> list[Received]:  # noqa: ARG002
        """Has none."""
        self._fail()

    def end(self, partition: int) -> int:  # noqa: ARG002
        """None can be told."""
        self._fail()

    def assigned(self, feed: str) -> frozenset[int]:  # noqa: ARG002
        """None can be told."""
        self._fail()

    def close(self) -> None:
        """Nothing is to be released."""

    def _fail(self) -> NoReturn:
        raise HubError(self._why)
