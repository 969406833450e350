"""What may stand in a configuration file: kinds of values, and the tables that both ends have.

A field is declared as `Annotated[type, Expected]`: the `Expected` parses the value and says in words what it must be.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from mip6.auth import FIRST_SPI, Algorithm, SecurityAssociation
from mip6.system.log import FORMATS, LEVELS

MINIMUM_KEY = 16  # octets: RFC 4285 §5 wants 128 bits of key
KEY_FILE_MODE = 0o600
MAXIMUM_KEY_FILE = 4096  # octets
SHORTEST_LIFETIME, LONGEST_LIFETIME = 4, 262140  # seconds: 16 bits in units of 4 (RFC 6275 §6.1.7)


# --- kinds of values -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """A kind of value: its description, and how to read it; `parse` raises ValueError, with a reason if it has one."""

    text: str
    parse: Callable[[Any], Any]
    secret: bool = False

    def read(self, value: Any) -> Any:
        """The parsed value, or a ValueError in full sentences."""
        try:
            return self.parse(value)
        except ValueError as error:
            reason = f": {error}" if str(error) else ""
            got = "something else" if self.secret else shown(value)
            raise ValueError(f"expected {self.text}, got {got}{reason}") from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)


def shown(value: Any) -> str:
    """A value as an error message quotes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return repr(value)


def integer(low: int, high: int, also: int | None = None) -> Expected:
    """A whole number from `low` to `high`, or `also`."""

    def parse(value: Any) -> int:
        if type(value) is not int or not (low <= value <= high or value == also):
            raise ValueError
        return value

    return Expected(f"{'' if also is None else f'{also} or '}a whole number from {low} to {high}", parse)


def choice(*values: str) -> Expected:
    """One of some words."""

    def parse(value: Any) -> str:
        if value not in values:
            raise ValueError
        return str(value)

    return Expected("one of " + ", ".join(f'"{value}"' for value in values), parse)


def text(description: str, longest: int) -> Expected:
    """A string without control characters of 1 to `longest` octets."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not 1 <= len(value.encode()) <= longest or not value.isprintable():
            raise ValueError
        return value

    return Expected(f"{description} of 1 to {longest} octets", parse)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 86400:
        raise ValueError
    return float(value)


def _address(value: Any) -> IPv6Address:
    if not isinstance(value, str):
        raise ValueError
    try:
        address = IPv6Address(value)
    except ValueError:
        raise ValueError from None
    if address.scope_id or address.is_multicast or address.is_link_local or address.is_loopback or int(address) == 0:
        raise ValueError("it is not global")
    return address


def _addresses(value: Any) -> tuple[IPv6Address, ...]:
    found = tuple(_address(one) for one in (value if isinstance(value, list) else [value]))
    if not found:
        raise ValueError("it is empty")
    if len(set(found)) < len(found):
        raise ValueError("one stands twice")
    return found


def _prefix(value: Any) -> IPv6Network:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError
    try:
        prefix = IPv6Network(value, strict=False)
    except ValueError:
        raise ValueError from None
    if prefix.prefixlen == 0:
        raise ValueError("that is every address")
    if IPv6Address(value.partition("/")[0]) != prefix.network_address:
        raise ValueError(f"host bits are set, the prefix is {prefix}")
    if prefix.is_multicast or prefix.is_link_local or prefix.is_loopback:
        raise ValueError("it is not global")
    return prefix


def _ipv4_address(value: Any) -> IPv4Address:
    if not isinstance(value, str):
        raise ValueError
    try:
        address = IPv4Address(value)
    except ValueError:
        raise ValueError from None
    if _not_usable(address):
        raise ValueError("it is not unicast")
    return address


def _ipv4_addresses(value: Any) -> tuple[IPv4Address, ...]:
    found = tuple(_ipv4_address(one) for one in (value if isinstance(value, list) else [value]))
    if len(set(found)) < len(found):
        raise ValueError("one stands twice")
    return found


def _ipv4_home_address(value: Any) -> IPv4Address:
    return IPv4Address(0) if value == "dynamic" else _ipv4_address(value)


def _ipv4_prefix(value: Any) -> IPv4Network:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError
    try:
        prefix = IPv4Network(value, strict=False)
    except ValueError:
        raise ValueError from None
    if prefix.prefixlen == 0:
        raise ValueError("that is every address")
    if IPv4Address(value.partition("/")[0]) != prefix.network_address:
        raise ValueError(f"host bits are set, the prefix is {prefix}")
    if _not_usable(prefix.network_address):
        raise ValueError("it is not unicast")
    return prefix


def _not_usable(address: IPv4Address) -> bool:
    special = address.is_multicast or address.is_loopback or address.is_link_local or address.is_reserved
    return special or address.packed[0] == 0


def interface(value: Any) -> str:
    """An interface name as the kernel allows it."""
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= 15 or set(value) & set("/: \t") or value == "..":
        raise ValueError
    return value


def _hex_key(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError
    try:
        key = bytes.fromhex(value)
    except ValueError:
        raise ValueError("not hexadecimal") from None
    if len(key) < MINIMUM_KEY:
        raise ValueError(f"only {len(key)} octets")
    return key


Boolean = Annotated[bool, Expected("true or false", _boolean)]
Address = Annotated[IPv6Address, Expected("a global IPv6 unicast address", _address)]
Addresses = Annotated[tuple[IPv6Address, ...], Expected("a global IPv6 unicast address or a list of them", _addresses)]
Prefix = Annotated[IPv6Network, Expected("an IPv6 prefix like 2001:db8::/56", _prefix)]
Ipv4Address = Annotated[IPv4Address, Expected("an IPv4 unicast address", _ipv4_address)]
Ipv4Addresses = Annotated[
    tuple[IPv4Address, ...], Expected("an IPv4 unicast address or a list of them", _ipv4_addresses)
]
Ipv4HomeAddress = Annotated[IPv4Address, Expected('an IPv4 unicast address or "dynamic"', _ipv4_home_address)]
Ipv4Prefix = Annotated[IPv4Network, Expected("an IPv4 prefix like 192.0.2.0/24", _ipv4_prefix)]
Interface = Annotated[str, Expected("an interface name of 1 to 15 octets", interface)]
Seconds = Annotated[float, Expected("seconds, more than 0 and at most 86400", _seconds)]
Lifetime = Annotated[int, integer(SHORTEST_LIFETIME, LONGEST_LIFETIME)]
LifetimeOrNone = Annotated[int, integer(SHORTEST_LIFETIME, LONGEST_LIFETIME, also=0)]
Mtu = Annotated[int, integer(1280, 65535)]
Identifier = Annotated[str, text("a network access identifier", 254)]
FilePath = Annotated[str, text("a path", 4095)]
SocketPath = Annotated[str, text("the path of a socket", 107)]
Enterprise = Annotated[int, integer(0, 0xFFFFFFFF)]
Number16 = Annotated[int, integer(1, 0xFFFF)]
LogLevel = Annotated[str, choice(*LEVELS)]
LogFormat = Annotated[str, choice(*FORMATS)]
Dataplane = Annotated[str, choice("auto", "ebpf", "userspace")]
Shortcut = Annotated[str, choice("auto", "on", "off")]
OnExit = Annotated[str, choice("keep", "clean")]
Replay = Annotated[str, choice("timestamp", "sequence")]


# --- tables that both ends have --------------------------------------------------------------------------------------


class Table(BaseModel):
    """A TOML table; keys that it does not declare are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class KeyTable(Table):
    """One mobility security association: SPI, algorithm, and the key here or in a file of its own."""

    spi: Annotated[int, integer(FIRST_SPI, 0xFFFFFFFF)]
    algorithm: Annotated[str, choice(*Algorithm)] = Algorithm.HMAC_SHA1
    key: Annotated[bytes | None, Expected(f"at least {MINIMUM_KEY} octets in hexadecimal", _hex_key, secret=True)] = (
        None
    )
    key_file: bytes | None = None

    @field_validator("key_file", mode="plain")
    @classmethod
    def _read_key_file(cls, value: Any, info: ValidationInfo) -> bytes:
        if not isinstance(value, str) or not value:
            raise ValueError(f"expected the path of a key file, got {shown(value)}")
        directory: Path = info.context["directory"] if info.context else Path()
        return read_key_file(directory / value)

    @model_validator(mode="after")
    def _one_key(self) -> KeyTable:
        if (self.key is None) == (self.key_file is None):
            raise ValueError("expected either key or key_file")
        return self

    def association(self) -> SecurityAssociation:
        """What the engines take."""
        return SecurityAssociation(self.spi, Algorithm(self.algorithm), self.key or self.key_file or b"")


def read_key_file(path: Path) -> bytes:
    """The key in `path`, in hexadecimal; ValueError unless only its owner, who is us, can read and write it."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            content = file.read(MAXIMUM_KEY_FILE)
    except OSError as error:
        raise ValueError(f"expected a file that can be read, but {path}: {error.strerror}") from None
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"expected a regular file, but {path} is none")
    if about.st_uid != os.geteuid():
        raise ValueError(f"expected a file of user {os.geteuid()}, but {path} belongs to user {about.st_uid}")
    if (mode := stat.S_IMODE(about.st_mode)) != KEY_FILE_MODE:
        raise ValueError(f"expected mode {KEY_FILE_MODE:04o}, but {path} has {mode:04o}")
    try:
        return _hex_key(content.decode("ascii").strip())
    except ValueError as error:
        reason = "not hexadecimal" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"expected {path} to hold at least {MINIMUM_KEY} octets in hexadecimal: {reason}") from None
