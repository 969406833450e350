"""Declared codecs: a class states its fields once; encoder, decoder and checks are generated from the statement.

    @declared
    class BindingIdentifier(Option):
        bid: int = bits(16)
        home: bool = flag()
        ...

Each field says how many bits it has (`bits`, `flag`), or that it is an address, or the variable rest. Neighbouring
bit fields that together fill 8, 16, 32 or 64 bits become one machine word; one precompiled `struct` reads them all.
Decoding is total: octets give a value or `FormError`, nothing else.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

from mip6.values import value


class FormError(ValueError):
    """The octets are not what the RFC's layout says. `offset` is where, in octets from the start of what was read."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


Tail = tuple[Callable[[bytes, int, int], Any], Callable[[Any], bytes]]


@dataclasses.dataclass(frozen=True, slots=True)
class Wire:
    """How one field stands on the wire: `width` in bits (None: the variable rest, read and written by `tail`)."""

    width: int | None = None
    reserved: int = 0  # reserved bits in front of the field: sent as zero, ignored on receipt
    kind: str = "int"  # int, bool, flags, ip6, ip4, octets, or tail
    unit: int = 1  # a value of n on the wire means n * unit
    flags: type[IntFlag] | None = None
    names: type[IntEnum] | None = None  # how to print the value
    tail: Tail | None = None


def _field(wire: Wire, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"wire": wire})


def bits(
    width: int,
    *,
    default: Any = dataclasses.MISSING,
    reserved: int = 0,
    unit: int = 1,
    names: type[IntEnum] | None = None,
) -> Any:
    """An unsigned number of `width` bits behind `reserved` unused bits, counted in `unit`."""
    return _field(Wire(width, reserved, "int", unit, names=names), default)


def flag(*, default: Any = dataclasses.MISSING, reserved: int = 0) -> Any:
    """One bit, True or False."""
    return _field(Wire(1, reserved, "bool"), default)


def flags(width: int, names: type[IntFlag], *, reserved: int = 0) -> Any:
    """A word of flags; bits without a name are kept."""
    return _field(Wire(width, reserved, "flags", flags=names), names(0))


def octets(count: int, *, default: Any = dataclasses.MISSING, reserved: int = 0) -> Any:
    """A fixed number of octets."""
    return _field(Wire(count * 8, reserved, "octets"), default)


def address(*, default: Any = dataclasses.MISSING, reserved: int = 0) -> Any:
    """An IPv6 address."""
    return _field(Wire(128, reserved, "ip6"), default)


def address4(*, default: Any = dataclasses.MISSING, reserved: int = 0) -> Any:
    """An IPv4 address."""
    return _field(Wire(32, reserved, "ip4"), default)


def rest(tail: Tail, *, default: Any = dataclasses.MISSING, reserved: int = 0) -> Any:
    """All that follows, read and written by `tail`. Only as the last field; `reserved` in whole octets."""
    return _field(Wire(None, reserved, "tail", tail=tail), default)


# --- what a variable rest can be ------------------------------------------------------------------------------------


def octets_tail(minimum: int = 0, maximum: int = 255) -> Tail:
    """Between `minimum` and `maximum` octets as they are."""

    def read(data: bytes, start: int, end: int) -> bytes:
        if not minimum <= end - start <= maximum:
            raise FormError(f"{end - start} octets, expected {minimum} to {maximum}", start)
        return data[start:end]

    def write(value: bytes) -> bytes:
        if not minimum <= len(value) <= maximum:
            raise ValueError(f"{len(value)} octets, expected {minimum} to {maximum}")
        return bytes(value)

    return read, write


def text_tail(maximum: int = 255) -> Tail:
    """UTF-8 text of 1 to `maximum` octets."""

    def read(data: bytes, start: int, end: int) -> str:
        if not 1 <= end - start <= maximum:
            raise FormError(f"text of {end - start} octets, expected 1 to {maximum}", start)
        try:
            return data[start:end].decode()
        except UnicodeDecodeError as error:
            raise FormError("text is not UTF-8", start + error.start) from None

    def write(value: str) -> bytes:
        encoded = value.encode()
        if not 1 <= len(encoded) <= maximum:
            raise ValueError(f"text of {len(encoded)} octets, expected 1 to {maximum}")
        return encoded

    return read, write


def numbers_tail(minimum: int, maximum: int) -> Tail:
    """A list of 16-bit numbers."""
    layouts = [struct.Struct(f"!{count}H") for count in range(maximum + 1)]

    def read(data: bytes, start: int, end: int) -> tuple[int, ...]:
        count, odd = divmod(end - start, 2)
        if odd or not minimum <= count <= maximum:
            raise FormError(f"list of {end - start} octets, expected {minimum} to {maximum} numbers of 2", start)
        return layouts[count].unpack_from(data, start)

    def write(value: tuple[int, ...]) -> bytes:
        if not minimum <= len(value) <= maximum:
            raise ValueError(f"{len(value)} numbers, expected {minimum} to {maximum}")
        try:
            return layouts[len(value)].pack(*value)
        except struct.error:
            raise ValueError(f"{value}: expected numbers of 16 bits") from None

    return read, write


def optional_address_tail(*lengths: int) -> Tail:
    """An address whose family the length tells: 0 none, 4 IPv4, 16 IPv6; only the given lengths are allowed."""

    def read(data: bytes, start: int, end: int) -> IPv6Address | IPv4Address | None:
        length = end - start
        if length not in lengths:
            raise FormError(f"address of {length} octets, expected {' or '.join(map(str, lengths))}", start)
        if length == 16:
            return IPv6Address(data[start:end])
        return IPv4Address(data[start:end]) if length else None

    def write(value: IPv6Address | IPv4Address | None) -> bytes:
        encoded = value.packed if value is not None else b""
        if len(encoded) not in lengths:
            raise ValueError(f"{value}: an address of this kind is not allowed here")
        return encoded

    return read, write


def _read_addresses(data: bytes, start: int, end: int) -> tuple[IPv6Address, ...]:
    if (end - start) % 16:
        raise FormError(f"address list of {end - start} octets", start)
    return tuple(IPv6Address(data[at : at + 16]) for at in range(start, end, 16))


ADDRESSES: Tail = (_read_addresses, lambda value: b"".join(one.packed for one in value))
"""A list of IPv6 addresses, counted by the length."""


# --- the generator --------------------------------------------------------------------------------------------------

_WORDS = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Decoder(Protocol):
    """Reads the fields from `data[start:end]`, all of it."""

    def __call__(self, data: bytes, start: int, end: int) -> Any: ...


class Declared:
    """Base of declared classes. SIZE is the length of the fixed part in octets, VARIABLE whether a rest follows."""

    __slots__ = ()
    SIZE: ClassVar[int] = 0
    VARIABLE: ClassVar[bool] = False
    WIRES: ClassVar[dict[str, Wire]] = {}
    decode_fields: ClassVar[Decoder]

    def encode_fields(self) -> bytes:
        """The fields as octets."""
        raise NotImplementedError


class Checked(Declared):
    """Base of those whose fields are checked when a value is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Raise ValueError when a field cannot be put on the wire."""


T = TypeVar("T")


@dataclass_transform(
    frozen_default=True, field_specifiers=(bits, flag, flags, octets, address, address4, rest, dataclasses.field)
)
def declared(cls: type[T]) -> type[T]:
    """Make a frozen dataclass of `cls` and generate `decode_fields`, `encode_fields` and the range checks."""
    made: Any = value(cls)
    wires = {f.name: f.metadata["wire"] for f in dataclasses.fields(made) if "wire" in f.metadata}
    _generate(made, wires)
    return made  # type: ignore[no-any-return]


def _generate(cls: Any, wires: dict[str, Wire]) -> None:
    layout, read, write, checks = "!", [], [], []
    word: list[tuple[str, Wire, int]] = []  # bit fields of the word that is being filled: name, wire, bits before it
    filled = variables = 0
    tail: tuple[str, Wire] | None = None
    scope: dict[str, Any] = {"new": object.__new__, "cls": cls, "IPv6Address": IPv6Address, "FormError": FormError}
    scope |= {"IPv4Address": IPv4Address}

    def close_word() -> None:
        nonlocal layout, filled, variables, word
        if not filled:
            return
        variable = f"w{variables}"
        variables += 1
        layout += _WORDS[filled]
        parts = []
        for name, wire, before in word:
            assert wire.width is not None
            shift, mask = filled - before - wire.width, (1 << wire.width) - 1
            raw = variable if wire.width == filled else f"({variable} >> {shift} & {mask})"
            if wire.kind == "bool":
                value = f"{raw} == 1"
            elif wire.kind == "flags":
                assert wire.flags is not None
                scope[f"flags_{name}"] = lru_cache(maxsize=256)(wire.flags)  # making a flag takes longer than all else
                value = f"flags_{name}({raw})"
            else:
                value = raw if wire.unit == 1 else f"{raw} * {wire.unit}"
            read.append((name, value))
            source = f"self.{name}" if wire.unit == 1 else f"self.{name} // {wire.unit}"
            parts.append(source if shift == 0 else f"({source}) << {shift}")
            top = mask * wire.unit
            rule = f"0 <= self.{name} <= {top}" + (f" and self.{name} % {wire.unit} == 0" if wire.unit > 1 else "")
            meant = f"0 to {top}" + (f" in steps of {wire.unit}" if wire.unit > 1 else "")
            text = f"{cls.__name__}.{name}: {{self.{name}!r}} is not {meant}"
            checks.append(f"if not ({rule}): raise ValueError(f{text!r})")
        write.append(" | ".join(parts) if parts else "0")
        word, filled = [], 0

    for name, wire in wires.items():
        scope[f"set_{name}"] = cls.__dict__[name].__set__
        if not filled and wire.reserved % 8 == 0:
            layout += f"{wire.reserved // 8}x" if wire.reserved else ""
        else:
            filled += wire.reserved
        if wire.kind == "tail":
            close_word()
            tail = (name, wire)
            continue
        assert wire.width is not None
        if wire.kind in ("int", "bool", "flags"):
            if filled in _WORDS and wire.width in _WORDS:
                close_word()
            word.append((name, wire, filled))
            filled += wire.width
            if filled in _WORDS:
                close_word()
            continue
        close_word()
        count = wire.width // 8
        layout += f"{count}s"
        variable = f"w{variables}"
        variables += 1
        convert = {"ip6": f"IPv6Address({variable})", "ip4": f"IPv4Address({variable})", "octets": variable}[wire.kind]
        read.append((name, convert))
        write.append(f"self.{name}" + ("" if wire.kind == "octets" else ".packed"))
        if wire.kind == "octets":
            text = f"{cls.__name__}.{name}: {{len(self.{name})}} octets, expected {count}"
            checks.append(f"if len(self.{name}) != {count}: raise ValueError(f{text!r})")
    close_word()

    packer = struct.Struct(layout)
    size = packer.size
    scope |= {"unpack_from": packer.unpack_from, "pack": packer.pack}
    compare = "<" if tail else "!="
    meant = f"at least {size}" if tail else str(size)
    lines = ["def decode_fields(data, start, end):"]
    text = f"{cls.__name__}: {{end - start}} octets, expected {meant}"
    lines.append(f"    if end - start {compare} {size}: raise FormError(f{text!r}, start)")
    if variables:
        lines.append(f"    {', '.join(f'w{n}' for n in range(variables))}, = unpack_from(data, start)")
    lines.append("    self = new(cls)")
    lines += [f"    set_{name}(self, {value})" for name, value in read]
    if tail:
        name, wire = tail
        assert wire.tail is not None
        scope["read_tail"], scope["write_tail"] = wire.tail
        lines.append(f"    set_{name}(self, read_tail(data, start + {size}, end))")
        checks.append(f"write_tail(self.{name})")
    lines += ["    return self", "", "def encode_fields(self):"]
    lines.append(f"    return pack({', '.join(write)})" + (f" + write_tail(self.{tail[0]})" if tail else ""))
    lines += ["", "def check_fields(self):", *[f"    {check}" for check in checks], "    return None"]
    exec(compile("\n".join(lines), f"<codec of {cls.__name__}>", "exec"), scope)
    cls.decode_fields = staticmethod(scope["decode_fields"])
    if "encode_fields" not in cls.__dict__:
        cls.encode_fields = scope["encode_fields"]
    if issubclass(cls, Checked):
        cls.__post_init__ = scope["check_fields"]
    cls.SIZE, cls.VARIABLE, cls.WIRES = size, tail is not None, wires


def internet_checksum(data: bytes) -> int:
    """One's complement of the one's complement sum of 16-bit words (RFC 1071); an odd octet is padded with zero.

    A big number modulo 2^16 - 1 is that sum. A result of 0 is sent as 0 (RFC 6275 §6.1.1 substitutes nothing).
    """
    if len(data) % 2:
        data += b"\0"
    return -int.from_bytes(data, "big") % 0xFFFF


def pseudo_header(source: IPv6Address, destination: IPv6Address, length: int, next_header: int) -> bytes:
    """The IPv6 pseudo header (RFC 8200 §8.1); for mobility the home address stands in (RFC 6275 §6.1.1)."""
    return source.packed + destination.packed + length.to_bytes(4, "big") + next_header.to_bytes(4, "big")
