"""AMQP 1.0 values to bytes and back: as much of the type system as Event Hubs and its clients use.

Written from the specification (OASIS, part 1: Types), not from the client's own codec, so that a defect in the one
does not hide behind the same defect in the other.
"""

import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Symbol(str):
    """A symbol: text of ASCII letters that names something."""

    __slots__ = ()


class UInt(int):
    """A 32-bit number without sign."""


class ULong(int):
    """A 64-bit number without sign."""


class Int(int):
    """A 32-bit number."""


class Timestamp(int):
    """Milliseconds since 1970."""


@dataclass(frozen=True)
class Described:
    """A value with a descriptor, such as a performative or a message section."""

    descriptor: Any
    value: Any


def encode(value: Any) -> bytes:  # noqa: C901, PLR0911 - a type each
    """A value with its constructor; `int` becomes a long, `list` a list, a tuple of symbols an array."""
    match value:
        case None:
            return b"\x40"
        case bool():
            return b"\x41" if value else b"\x42"
        case Described():
            return b"\x00" + encode(value.descriptor) + encode(value.value)
        case Symbol():
            return _sized(0xA3, value.encode("ascii"))
        case str():
            return _sized(0xA1, value.encode())
        case bytes() | bytearray() | memoryview():
            return _sized(0xA0, bytes(value))
        case float():
            return struct.pack(">Bd", 0x82, value)
        case uuid.UUID():
            return b"\x98" + value.bytes
        case dict():
            return _compound(0xD1, [part for pair in value.items() for part in pair])
        case list():
            return _compound(0xD0, value)
        case tuple():
            return _array_of_symbols(value)
        case int():
            return _encode_int(value)
    raise TypeError(f"no AMQP type for {type(value).__name__}")


def _encode_int(value: int) -> bytes:
    match value:
        case UInt():
            return struct.pack(">BI", 0x70, value)
        case ULong():  # descriptors are to be small ones
            return struct.pack(">BB", 0x53, value) if value < 256 else struct.pack(">BQ", 0x80, value)
        case Int():
            return struct.pack(">Bi", 0x71, value)
        case Timestamp():
            return struct.pack(">Bq", 0x83, value)
    return struct.pack(">Bq", 0x81, value)


def _sized(code: int, data: bytes) -> bytes:
    """Variable width: `code` is that with one byte of size, `code + 0x10` that with four."""
    if len(data) < 256:
        return bytes((code, len(data))) + data
    return struct.pack(">BI", code + 0x10, len(data)) + data


def _compound(code: int, items: Sequence[Any]) -> bytes:
    data = b"".join(map(encode, items))
    return struct.pack(">BII", code, len(data) + 4, len(items)) + data


def _array_of_symbols(items: Sequence[str]) -> bytes:
    data = b"\xb3" + b"".join(struct.pack(">I", len(item)) + item.encode("ascii") for item in items)
    return struct.pack(">BII", 0xF0, len(data) + 4, len(items)) + data


def decode(data: memoryview, at: int = 0) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends."""
    code = data[at]
    if code == 0:
        descriptor, at = decode(data, at + 1)
        value, at = decode(data, at)
        return Described(descriptor, value), at
    return _decode_body(code, data, at + 1)


_CONSTANTS: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: []}
_FIXED: dict[int, tuple[struct.Struct, Callable[[Any], Any]]] = {
    0x50: (struct.Struct(">B"), int),
    0x51: (struct.Struct(">b"), int),
    0x52: (struct.Struct(">B"), int),
    0x53: (struct.Struct(">B"), int),
    0x54: (struct.Struct(">b"), int),
    0x55: (struct.Struct(">b"), int),
    0x56: (struct.Struct(">?"), bool),
    0x60: (struct.Struct(">H"), int),
    0x61: (struct.Struct(">h"), int),
    0x70: (struct.Struct(">I"), int),
    0x71: (struct.Struct(">i"), int),
    0x72: (struct.Struct(">f"), float),
    0x80: (struct.Struct(">Q"), int),
    0x81: (struct.Struct(">q"), int),
    0x82: (struct.Struct(">d"), float),
    0x83: (struct.Struct(">q"), Timestamp),
    0x98: (struct.Struct(">16s"), lambda data: uuid.UUID(bytes=data)),
}
_VARIABLE: dict[int, Callable[[bytes], Any]] = {
    0xA0: bytes,
    0xA1: lambda data: data.decode(),
    0xA3: lambda data: Symbol(data.decode("ascii")),
}


def _decode_body(code: int, data: memoryview, at: int) -> tuple[Any, int]:
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    if code in _FIXED:
        layout, make = _FIXED[code]
        return make(layout.unpack_from(data, at)[0]), at + layout.size
    wide = bool(code & 0x10)
    size_layout = struct.Struct(">I" if wide else ">B")
    [size] = size_layout.unpack_from(data, at)
    at += size_layout.size
    kind = code & ~0x10
    if kind in _VARIABLE:
        return _VARIABLE[kind](bytes(data[at : at + size])), at + size
    end = at + size
    [count] = size_layout.unpack_from(data, at)
    at += size_layout.size
    if kind == 0xE0:
        items = []
        if count:
            element, at = data[at], at + 1
        for _ in range(count):
            item, at = _decode_body(element, data, at)
            items.append(item)
        return items, end
    items = []
    for _ in range(count):
        item, at = decode(data, at)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if kind == 0xC1 else items), end
