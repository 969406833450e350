"""Load sharing: which of several tunnels takes a new flow, by weight.

The choice is a weighted rendezvous of the flow with each tunnel: both ends and both data planes come to the same
one, and when tunnels or weights change, no more new flows change their tunnel than must. All of it is arithmetic on
whole numbers, so that a program in the kernel can do the same:

* A flow is five numbers of 64 bits: source, destination (two each, an IPv4 address as ::ffff:a.b.c.d), and protocol
  times 2^32 plus what tells flows apart: source port times 2^16 plus destination port, else the SPI of ESP or AH, else
  0. It is written as a selector is, with the correspondent as source. All fragments have 0: so they stay together.
* Its hash: h = 0, then h = mix(h xor number) for each number; `mix` is the finalizer of SplitMix64.
* A tunnel draws u = (mix(h xor BID) >> 32) | 1, a number below 2^32, and its cost is -log2(u / 2^32). The least cost
  divided by weight wins, among equals the lowest BID: so each wins as often as its share of all weights says.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from mip6.forwarding import IPAddress
from mip6.packet import Parsed

Flow = tuple[int, int, int, int, int]
_64_BITS = (1 << 64) - 1
_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96


def flow_of(packet: Parsed, reverse: bool = False) -> Flow:
    """The flow that a packet belongs to. `reverse`: an uplink packet, as in `matching.matches`."""
    source, destination = packet.source, packet.destination
    ports, upper = packet.ports, 0
    if packet.fragment is not None:
        ports = None
    elif ports is None:
        upper = packet.spi or 0
    if reverse:
        source, destination = destination, source
        ports = ports and (ports[1], ports[0])
    if ports is not None:
        upper = ports[0] << 16 | ports[1]
    return *_words(source), *_words(destination), packet.protocol << 32 | upper


def flow_hash(flow: Flow) -> int:
    """64 bits."""
    found = 0
    for number in flow:
        found = _mix(found ^ number)
    return found


def choose(flow: Flow, tunnels: Iterable[tuple[int, int]]) -> int:
    """The BID that takes a new flow, of pairs of BID and weight; at least one weight is above 0."""
    found = flow_hash(flow)
    best, best_cost, best_weight = 0, 1, 0
    for bid, weight in sorted(tunnels):
        if weight:
            cost = (32 << 16) - log2((_mix(found ^ bid) >> 32) | 1)
            if cost * best_weight < best_cost * weight:
                best, best_cost, best_weight = bid, cost, weight
    return best


def log2(number: int) -> int:
    """The binary logarithm of a number from 1 to 2^32 - 1, times 2^16, rounded down: bit by bit, by squaring."""
    whole = number.bit_length() - 1
    found, rest = whole << 16, number << 31 - whole
    for bit in range(15, -1, -1):
        rest = rest * rest >> 31
        if rest >> 32:
            rest >>= 1
            found |= 1 << bit
    return found


def _words(address: IPAddress) -> tuple[int, int]:
    number = int(address)
    if isinstance(address, IPv4Address):
        return 0, _MAPPED | number
    return number >> 64, number & _64_BITS


def _mix(number: int) -> int:
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _64_BITS
    return number ^ number >> 31
