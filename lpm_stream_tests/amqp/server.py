"""The loopback server: it listens, holds the hub, and plays the faults that a test has put on its script."""

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

from lpm_stream_tests.amqp.connection import Connection
from lpm_stream_tests.amqp.hub import Partition

SendFault = Literal["ok", "busy", "cut", "cut after storing", "detach", "lapse", "silent", "slow"]
AttachFault = Literal["ok", "refuse", "redirect", "silent", "cut", "one too many"]
ConnectFault = Literal["ok", "silent"]


class EventHubsServer:
    """One event hub on a port of its own.

    Attributes:
        partitions: what the hub keeps, by partition id.
        sends: what happens to the next batches; where it is empty, they are stored.
        attaches: what happens to the next links to partitions.
        connects: what happens to the next connections.
        deliver_at_most: so many events go out before the connection is cut, each time.
        max_message_bytes: the largest batch, as the hub announces it.
        token_status: what an authentication gets.
        lapse_condition: with what a link is detached whose connection has no valid token any more. Event Hubs says
            either `amqp:unauthorized-access` (github.com/Azure/azure-event-hubs-node, issue 186) or
            `amqp:link:detach-forced` (github.com/Azure/azure-sdk-for-python, issue 5314).
        is_silent: whether it answers nothing any more.
        log: what it was asked, for tests to look at: (what, address); for put-token the connection's number.
    """

    def __init__(self, partitions: int = 4, max_message_bytes: int = 1_048_576) -> None:
        self.name = "tdr"
        self.partitions = {str(number): Partition() for number in range(partitions)}
        self.max_message_bytes = max_message_bytes
        self.sends: deque[SendFault] = deque()
        self.attaches: deque[AttachFault] = deque()
        self.connects: deque[ConnectFault] = deque()
        self.deliver_at_most: deque[int] = deque()
        self.token_status = 202
        self.lapse_condition = "amqp:unauthorized-access"
        self.is_silent = False
        self.log: list[tuple[str, str]] = []
        self.port = 0
        self._ahead = 0.0
        self._connections: set[Connection] = set()
        self._connected = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="amqp-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connection_string(self) -> str:
        """For clients."""
        return (
            f"Endpoint=sb://localhost:{self.port};SharedAccessKeyName=x;SharedAccessKey=c2VjcmV0;"
            f"UseDevelopmentEmulator=true;EntityPath={self.name}"
        )

    def readers(self, partition: str) -> int:
        """How many links read a partition now; asked where the connections live."""
        return sum(connection.readers(partition) for connection in self._connections)

    def in_loop(self, action: Callable[[], Any]) -> Any:
        """Runs something where the connections live, and returns what it returns."""

        async def run() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def disconnect_all(self) -> None:
        """Drops every connection, as a node of the service that restarts."""
        self.in_loop(self._cut_all)

    def detach_all(self, condition: str = "amqp:link:detach-forced") -> None:
        """Detaches every link to a partition, as a partition that moves to another node."""

        def detach() -> None:
            for connection in list(self._connections):
                connection.detach_all(condition)

        self.in_loop(detach)

    def now(self) -> float:
        """The time by which tokens expire, in seconds since 1970."""
        return time.time() + self._ahead

    def let_pass(self, seconds: float) -> None:
        """Puts the time forward; who has not renewed a token that has expired by then loses its links."""

        def lapse() -> None:
            self._ahead += seconds
            for connection in list(self._connections):
                if connection.authorized_until <= self.now():
                    connection.lapse()

        self.in_loop(lapse)

    def revoke_all(self) -> None:
        """Has every token lapse ahead of its time: for clients, as if the server's clock were ahead of theirs."""

        def lapse() -> None:
            for connection in list(self._connections):
                connection.lapse()

        self.in_loop(lapse)

    def expire(self, partition: str, count: int) -> None:
        """Drops the oldest events of a partition, as retention does."""
        self.in_loop(lambda: self.partitions[partition].expire(count))

    def recreate(self) -> None:
        """Deletes the hub with all that it holds and creates it anew."""

        def empty() -> None:
            self._cut_all()
            self.partitions = {partition: Partition() for partition in self.partitions}

        self.in_loop(empty)

    def stop(self) -> None:
        """Stops listening and drops every connection; `start` begins again on the same port."""
        self.in_loop(self._stop)

    def start(self) -> None:
        """Listens again."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._started.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "localhost", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connected += 1
        connection = Connection(self, reader, writer, self._connected)
        self._connections.add(connection)
        try:
            await connection.run()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # how clients leave, and how it ends
        finally:
            self._connections.discard(connection)
            connection.cut()

    def _cut_all(self) -> None:
        for connection in list(self._connections):
            connection.cut()

    async def _end(self) -> None:
        self._stop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # closed connections are let go in the next round

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut_all()


def serve(arguments: Iterable[str]) -> None:
    """Runs a server with so many partitions until standard input ends; its connection string is its first line."""
    [partitions] = arguments
    with EventHubsServer(int(partitions)) as server:
        sys.stdout.write(f"{server.connection_string}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1:])
