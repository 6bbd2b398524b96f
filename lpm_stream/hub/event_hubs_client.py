"""How an event hub is reached: clients of the SDK, and its management node on a connection that stays open.

The SDK's public receiving API hides failing links and needs a thread that balances load; its public questions
about a partition open a connection each. So both use the layer below, which is private: `azure-eventhub` is pinned
to the minor version it was tested with.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from azure.core.exceptions import AzureError
from azure.eventhub import EventHubConsumerClient, EventHubProducerClient
from azure.eventhub._pyamqp.error import AMQPException
from azure.eventhub._pyamqp.message import Message as AmqpMessage
from azure.eventhub.exceptions import EventHubError

from lpm_stream.errors import HubError, LpmStreamError
from lpm_stream.hub.bounded import within
from lpm_stream.secret import FORMS, is_reference, resolve

_ASK_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
# `azure-identity` raises the second, at first and when a token is renewed.
_CLIENT_ERRORS = (EventHubError, AzureError, AMQPException, TimeoutError, OSError, ValueError)


@dataclass(frozen=True)
class Access:
    """Where an event hub is and with what it lets us in.

    Attributes:
        name: what it is called in messages; holds no secret.
        consumer_group: as whom it is read.
        connection: arguments of the SDK's clients; holds the secret.
    """

    name: str
    consumer_group: str
    connection: dict[str, Any]

    def __repr__(self) -> str:
        return f"Access({self.name!r})"

    def producer(self) -> EventHubProducerClient:
        """A client that sends; the SDK retries twice before we do."""
        # Also the limit of a write: short ones would cut off batches on slow lines.
        options = {"retry_total": 2, "retry_backoff_factor": 0.2, "socket_timeout": 5}
        client: EventHubProducerClient = self._client(EventHubProducerClient, options)
        return client

    def consumer(self) -> EventHubConsumerClient:
        """A client that receives and asks; it only ever blocks for so long, and its errors come up at once."""
        options = {"consumer_group": self.consumer_group, "retry_total": 0, "socket_timeout": 0.05}
        client: EventHubConsumerClient = self._client(EventHubConsumerClient, options)
        return client

    def _client(self, kind: Any, options: Mapping[str, Any]) -> Any:
        try:
            if "conn_str" in self.connection:
                return kind.from_connection_string(**self.connection, **options)
            return kind(**self.connection, **options)
        except ValueError as error:  # what it says may quote the connection string
            raise HubError(f"{self.name}: the connection string is malformed or names no event hub") from error

    def close_quietly(self, close: Callable[[], object]) -> None:
        """Closes something whose other end may be gone."""
        try:
            within(_CLOSE_SECONDS, close)
        except Exception as error:  # noqa: BLE001 - the SDK raises anything, and nothing is to be done about it
            _ = error


def access(location: str) -> Access:
    """Reads what follows `eventhubs:` in a hub's URL.

    Args:
        location: a reference to a connection string (`env:NAME`, `file:PATH` or `keyvault:VAULT/SECRET`), then
            `?hub=NAME` where that names no event hub; or `//NAMESPACE.servicebus.windows.net/HUB` with the
            credentials that `azure-identity` finds. `consumer_group=NAME` says as whom to read, `$Default` if left
            out.

    Raises:
        LpmStreamError: if it is neither.
        ImportError: if `azure-identity` is needed and missing.
    """
    place, _, query = location.partition("?")
    options = dict(parse_qsl(query))
    group = options.pop("consumer_group", "$Default")
    hub = options.pop("hub", "")
    if options:
        raise LpmStreamError(f"eventhubs: knows consumer_group and hub, not {', '.join(sorted(options))}")
    if place.startswith("//"):
        namespace, _, path = place.removeprefix("//").partition("/")
        hub = hub or path.strip("/")
        if not (namespace and hub):
            raise LpmStreamError("an event hub without connection string is eventhubs://NAMESPACE/HUB")
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - slow, and not always needed

        connection: dict[str, Any] = {
            "fully_qualified_namespace": namespace,
            "eventhub_name": hub,
            "credential": DefaultAzureCredential(),
        }
        return Access(f"event hub {hub}", group, connection)
    if not is_reference(place):
        raise LpmStreamError(f"a connection string is given by reference: eventhubs: and {FORMS}")
    connection = {"conn_str": resolve(place, "LPM_STREAM_HUB_URL")} | ({"eventhub_name": hub} if hub else {})
    return Access(f"event hub {hub}".strip() + f" of {place}", group, connection)


@dataclass(frozen=True)
class Ends:
    """What a partition holds, in our numbers, which begin at 1.

    Attributes:
        before_oldest: the number in front of its oldest message.
        end: the number of its newest, 0 if there never was one.
    """

    before_oldest: int
    end: int


class Management:
    """Asks the hub about itself. Safe in several threads, one question at a time."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client = access.consumer()
        self._connection: Any = None
        self._lock = threading.Lock()

    def partition_ids(self) -> list[str]:
        """The partitions' names.

        Raises:
            HubError: if the hub does not answer, or not to us.
        """
        found = self._ask("com.microsoft:eventhub")
        return [name.decode() for name in found[b"partition_ids"]]

    def ends(self, partition: int) -> Ends:
        """What a partition holds.

        Raises:
            HubError: as above.
        """
        found = self._ask("com.microsoft:partition", partition=str(partition))
        end = found[b"last_enqueued_sequence_number"] + 1
        return Ends(end if found[b"is_partition_empty"] else found[b"begin_sequence_number"], end)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._drop()

    def _ask(self, kind: str, **about: str) -> dict[bytes, Any]:
        with self._lock:
            is_new = self._connection is None
            try:
                return self._answer(kind, about)
            except _CLIENT_ERRORS as error:
                self._drop()
                if is_new or isinstance(error, TimeoutError):  # the next who asks has a new connection
                    raise HubError(f"{self._access.name} does not answer: {reason(error)}") from error
            try:
                return self._answer(kind, about)  # the connection was an old one: once more on a new one
            except _CLIENT_ERRORS as error:
                self._drop()
                raise HubError(f"{self._access.name} does not answer: {reason(error)}") from error

    def _answer(self, kind: str, about: Mapping[str, Any]) -> dict[bytes, Any]:
        client = self._client
        if self._connection is None:
            self._connection = client._amqp_transport.create_mgmt_client(  # noqa: SLF001
                client._address,  # noqa: SLF001
                mgmt_auth=client._create_auth(),  # noqa: SLF001
                config=client._config,  # noqa: SLF001
            )
        connection = self._connection
        deadline = time.monotonic() + _ASK_SECONDS

        def ask() -> Any:
            connection.open()
            while (
                not connection.client_ready()
            ):  # blocks briefly; `mgmt_request` itself would also sleep each time
                if time.monotonic() > deadline:
                    raise TimeoutError("the connection was not opened in time")
            token = connection._auth.get_token().token  # noqa: SLF001
            properties: dict[str | bytes, Any] = {"name": client.eventhub_name, "security_token": token}
            properties.update(about.items())
            question = AmqpMessage(application_properties=properties)
            return connection.mgmt_request(
                question,
                operation="READ",
                operation_type=kind,
                timeout=_ASK_SECONDS,
                status_code_field=b"status-code",
                description_fields=b"status-description",
            )

        status, description, answer = within(_ASK_SECONDS, ask)
        if status >= 400:  # noqa: PLR2004 - as in HTTP
            text = description.decode() if isinstance(description, bytes) else description
            raise ValueError(f"status {status} {text}")
        found: dict[bytes, Any] = answer.value
        return found

    def _drop(self) -> None:
        if self._connection is not None:
            self._access.close_quietly(self._connection.close)
            self._connection = None


def reason(error: BaseException) -> str:
    """What the SDK says, on one line, with its kind."""
    said = getattr(error, "description", None) or str(error)
    text = said.decode() if isinstance(said, bytes) else str(said)
    lines = text.splitlines()
    return f"{lines[0]} ({type(error).__name__})" if lines else type(error).__name__
