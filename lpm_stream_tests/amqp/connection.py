"""One connection to the loopback server: frames, sessions, links, and what Event Hubs answers on them."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lpm_stream_tests.amqp.codec import Described, Int, Symbol, UInt, ULong, decode, encode
from lpm_stream_tests.amqp.hub import APPLICATION, PROPERTIES, VALUE, Partition, sections

if TYPE_CHECKING:
    from lpm_stream_tests.amqp.server import EventHubsServer

_AMQP, _SASL = b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00"
_OPEN, _BEGIN, _ATTACH, _FLOW, _TRANSFER, _DISPOSITION, _DETACH, _END, _CLOSE = range(0x10, 0x19)
_MECHANISMS, _OUTCOME = 0x40, 0x44
_ACCEPTED, _REJECTED, _SOURCE, _TARGET, _ERROR = 0x24, 0x25, 0x28, 0x29, 0x1D
_SELECTOR = Symbol("apache.org:selector-filter:string")
_CREDIT, _WINDOW = 1_000, 65_536
_MOST_READERS = 5  # of a partition, in a consumer group; Event Hubs quotas


@dataclass
class _Link:
    """A link as the client attached it.

    Attributes:
        sends: whether the client sends on it.
        node: `$cbs`, `$management`, a partition id, or `$hub`: the hub as a whole, which takes no batches here.
        credit: how many messages the client still wants.
        count: number of messages that have gone over it.
        position: the sequence number of the last event that went out.
        payload: what has come of a message so far.
    """

    channel: int
    handle: int
    sends: bool
    node: str
    source: Any
    target: Any
    credit: int = 0
    count: int = 0
    position: int = -1
    payload: bytearray = field(default_factory=bytearray)
    delivery: int = 0


class Connection:
    """Serves one client.

    Attributes:
        authorized_until: when the token that the client put last expires, in seconds since 1970.
    """

    def __init__(
        self, server: EventHubsServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.authorized_until = 0.0
        self._number = number
        self._server = server
        self._reader = reader
        self._writer = writer
        self._links: dict[tuple[int, int], _Link] = {}
        self._listening: list[tuple[Partition, Any]] = []
        self._frame_bytes = 65_536
        self._deliveries = 0
        self._transfers_in: dict[int, int] = {}
        self._is_silent = bool(server.connects) and server.connects.popleft() == "silent"
        self._left = server.deliver_at_most.popleft() if server.deliver_at_most else None

    async def run(self) -> None:
        """Answers until the client leaves."""
        while True:
            head = await self._reader.readexactly(8)
            if self._server.is_silent or self._is_silent:
                continue
            if head.startswith(b"AMQP"):
                self._writer.write(head)
                if head == _SASL:
                    self._send_frame(0, _MECHANISMS, [(Symbol("ANONYMOUS"),)], kind=1)
                continue
            [size] = struct.unpack_from(">I", head)
            offset, kind, channel = struct.unpack_from(">BBH", head, 4)
            body = memoryview(await self._reader.readexactly(size - 8))[offset * 4 - 8 :]
            if kind == 1:
                self._send_frame(0, _OUTCOME, [0, None], kind=1)
            elif body:
                performative, at = decode(body)
                self._handle(channel, performative.descriptor, performative.value, bytes(body[at:]))
            await self._writer.drain()

    def cut(self) -> None:
        """Drops the connection without a word."""
        for partition, listener in self._listening:
            partition.listeners.discard(listener)
        self._links.clear()
        self._writer.close()

    def readers(self, partition: str) -> int:
        """How many links of this client read a partition."""
        return sum(link.node == partition and not link.sends for link in self._links.values())

    def detach_all(self, condition: str) -> None:
        """Detaches the links to partitions."""
        for link in list(self._links.values()):
            if not link.node.startswith("$"):
                self._detach(link, condition)

    def lapse(self) -> None:
        """Detaches every link but those that take a new token, as where the token has expired."""
        self.authorized_until = 0.0
        for link in list(self._links.values()):
            if link.node != "$cbs":
                self._detach(link, self._server.lapse_condition)

    def _handle(  # noqa: C901 - a performative each
        self, channel: int, kind: int, fields: list[Any], payload: bytes
    ) -> None:
        if self._server.is_silent:
            return
        fields = fields + [None] * (14 - len(fields))
        match kind:
            case 0x10:
                self._frame_bytes = min(fields[2] or 65_536, 65_536)
                self._send_frame(0, _OPEN, ["hub", None, UInt(65_536), UInt(1_000), None, *[None] * 5])
            case 0x11:
                window = [ULong(0), UInt(_WINDOW), UInt(_WINDOW), UInt(255), None, None, None]
                self._transfers_in[channel] = 0
                self._send_frame(channel, _BEGIN, [UInt(channel), *window])
            case 0x12:
                self._attach(channel, fields)
            case 0x13:
                self._flow(channel, fields)
            case 0x14:
                self._transfer(channel, fields, payload)
            case 0x16:
                if self._links.pop((channel, fields[0]), None):
                    self._send_frame(channel, _DETACH, [UInt(fields[0]), True, None])
            case 0x17:
                self._send_frame(channel, _END, [None])
            case 0x18:
                self._send_frame(0, _CLOSE, [None])
                self._writer.close()

    def _attach(self, channel: int, fields: list[Any]) -> None:
        name, handle, is_receiver, source, target = fields[0], fields[1], fields[2], fields[5], fields[6]
        address = str((source if is_receiver else target).value[0])
        node = address if address.startswith("$") else self._node(address)
        self._server.log.append(("receive" if is_receiver else "send", address))
        is_authorized = node == "$cbs" or self.authorized_until > self._server.now()
        link = _Link(channel, handle, not is_receiver, node, source, target)
        faults = self._server.attaches
        fault = faults.popleft() if faults and not node.startswith("$") else "ok"
        if fault == "silent":
            return
        if fault == "cut":
            self.cut()
            return
        reads = is_receiver and not node.startswith("$")
        if fault == "ok" and reads and self._server.readers(node) >= _MOST_READERS:
            self._server.log.append(("refused", address))
            fault = "one too many"
        self._links[channel, handle] = link
        refused = not node or fault != "ok" or not is_authorized
        ends = [None, None] if refused else [source, target]
        initial, most = UInt(0) if is_receiver else None, self._server.max_message_bytes
        self._send_frame(
            channel,
            _ATTACH,
            [name, UInt(handle), not is_receiver, 0, 0, *ends, None, None, initial, most, None, None, None],
        )
        if refused:
            conditions = {
                "refuse": "amqp:internal-error",
                "redirect": "amqp:link:redirect",
                "one too many": "amqp:resource-limit-exceeded",
            }
            missing = "amqp:not-found" if is_authorized else "amqp:unauthorized-access"
            self._detach(link, conditions.get(fault, missing))
        elif link.sends:
            self._give_credit(link)
        elif not node.startswith("$"):
            self._read(link, source)

    def _node(self, address: str) -> str:
        """The part of the hub that an address such as `amqps://host/tdr/Partitions/1` names, empty if none."""
        hub, _, partition = address.split("/", 3)[-1].partition("/")
        if hub != self._server.name:
            return ""
        partition = partition.rpartition("Partitions/")[2]
        return "$hub" if not partition else partition if partition in self._server.partitions else ""

    def _read(self, link: _Link, source: Described) -> None:
        partition = self._server.partitions[link.node]
        filters = source.value[7] or {} if len(source.value) > 7 else {}
        found = filters.get(_SELECTOR)
        link.position = partition.start(found.value if isinstance(found, Described) else found)

        def listener() -> None:
            self._pump(link)

        self._listening.append((partition, listener))
        partition.listeners.add(listener)

    def _flow(self, channel: int, fields: list[Any]) -> None:
        link = self._links.get((channel, fields[4])) if fields[4] is not None else None
        if link is not None and not link.sends:
            link.credit = (fields[5] or 0) + (fields[6] or 0) - link.count
            self._pump(link)

    def _pump(self, link: _Link) -> None:
        """Sends the client what it has credit for."""
        if link.node not in self._server.partitions or (link.channel, link.handle) not in self._links:
            return
        partition = self._server.partitions[link.node]
        while link.credit > 0 and (event := partition.behind(link.position)) is not None:
            if self._left == 0:
                self.cut()
                return
            self._left = None if self._left is None else self._left - 1
            self._deliver(link, event.encoded())
            link.position = event.number

    def _deliver(self, link: _Link, message: bytes) -> None:
        """One message in as many frames as it takes, settled."""
        tag, number = struct.pack(">I", self._deliveries), UInt(self._deliveries)
        room = self._frame_bytes - 128
        for at in range(0, len(message), room):
            more = at + room < len(message)
            fields = [UInt(link.handle), number, tag, UInt(0), True, more, None, None, None, None, None]
            self._send_frame(link.channel, _TRANSFER, fields, message[at : at + room])
        self._deliveries += 1
        link.credit -= 1
        link.count += 1

    def _transfer(self, channel: int, fields: list[Any], payload: bytes) -> None:
        link = self._links.get((channel, fields[0]))
        if link is None:
            return
        self._transfers_in[channel] += 1
        if not link.payload:
            link.delivery = fields[1]
        link.payload += payload
        if fields[5]:
            return
        message, link.payload = bytes(link.payload), bytearray()
        link.count += 1
        if link.node == "$hub":
            self._settle(link, _rejected("amqp:not-allowed", "name a partition"))
        elif link.node.startswith("$"):
            self._settle(link, Described(ULong(_ACCEPTED), []))
            self._answer(link, message)
        else:
            self._store(link, message)

    def _store(self, link: _Link, batch: bytes) -> None:
        server = self._server
        fault = server.sends.popleft() if server.sends else "ok"
        if fault in ("cut", "detach", "lapse", "silent", "busy"):
            if fault == "cut":
                self.cut()
            elif fault == "detach":
                self._detach(link, "amqp:link:detach-forced")
            elif fault == "lapse":
                self.lapse()
            elif fault == "busy":
                self._settle(link, _rejected("com.microsoft:server-busy", "throttled, retry in 4 s"))
            return
        if len(batch) > server.max_message_bytes:
            self._settle(link, _rejected("amqp:link:message-size-exceeded", "the batch is too large"))
            return
        try:
            server.partitions[link.node].append(batch)
        except ValueError as error:
            self._settle(link, _rejected("amqp:invalid-field", str(error)))
            return
        if fault == "cut after storing":
            self.cut()
        else:
            self._settle(link, Described(ULong(_ACCEPTED), []))

    def _settle(self, link: _Link, state: Described) -> None:
        number = UInt(link.delivery)
        self._send_frame(link.channel, _DISPOSITION, [True, number, number, True, state, None])
        self._give_credit(link)

    def _answer(self, link: _Link, request: bytes) -> None:
        """The reply of `$cbs` and `$management`, on the link that the client reads from."""
        parts = {section.descriptor: section.value for section in sections(request)}
        asked, message_id = parts[APPLICATION], parts[PROPERTIES][0]
        if link.node == "$cbs":
            self._server.log.append(("put-token", str(self._number)))
        else:
            self._server.log.append((str(asked["type"]), str(asked.get("partition", ""))))
        status, body = self._result(link.node, asked)
        text = "OK" if status < 400 else "not to be had"
        # $cbs says status-code, $management likewise; the client reads either's description under two names
        words = {"status-code": Int(status), "status-description": text, "statusCode": Int(status)}
        words["statusDescription"] = text
        properties = [None, None, None, None, None, message_id, *[None] * 7]
        reply = b"".join(
            encode(Described(ULong(section), value))
            for section, value in ((PROPERTIES, properties), (APPLICATION, words), (VALUE, body))
        )
        for other in self._links.values():
            if other.node == link.node and not other.sends and other.channel == link.channel:
                self._deliver(other, reply)

    def _result(self, node: str, asked: dict[str, Any]) -> tuple[int, Any]:
        server = self._server
        if node == "$cbs":
            return self._authorize(asked["expiration"] / 1000), None
        if asked["name"] != server.name:
            return 404, None
        if asked["type"] == "com.microsoft:eventhub":
            ids = list(server.partitions)
            return 200, {"name": server.name, "type": asked["type"], "created_at": 0, "partition_ids": ids}
        partition = server.partitions.get(asked["partition"])
        if partition is None:
            return 404, None
        return 200, partition.properties(server.name, asked["partition"])

    def _authorize(self, expires_at: float) -> int:
        """The status of a token that was put; one that has expired is refused."""
        if self._server.token_status >= 400 or expires_at <= self._server.now():
            return max(self._server.token_status, 401)
        self.authorized_until = expires_at
        return self._server.token_status

    def _give_credit(self, link: _Link) -> None:
        """Renews the session's window and the link's credit; the client counts both down."""
        came = UInt(self._transfers_in[link.channel])
        window = [came, UInt(_WINDOW), UInt(self._deliveries), UInt(_WINDOW)]
        fields = [*window, UInt(link.handle), UInt(link.count), UInt(_CREDIT), None, None, None, None]
        self._send_frame(link.channel, _FLOW, fields)

    def _detach(self, link: _Link, condition: str) -> None:
        self._links.pop((link.channel, link.handle), None)
        self._send_frame(link.channel, _DETACH, [UInt(link.handle), True, _error(condition, "by the script")])

    def _send_frame(
        self, channel: int, performative: int, fields: list[Any], payload: bytes = b"", *, kind: int = 0
    ) -> None:
        if self._writer.is_closing():
            return
        body = encode(Described(ULong(performative), fields)) + payload
        self._writer.write(struct.pack(">IBBH", len(body) + 8, 2, kind, channel) + body)


def _error(condition: str, description: str) -> Described:
    return Described(ULong(_ERROR), [Symbol(condition), description, None])


def _rejected(condition: str, description: str) -> Described:
    return Described(ULong(_REJECTED), [_error(condition, description)])
