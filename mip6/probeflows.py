"""How probes find their tunnel: by port and flow rule, the same at both ends, so that nothing has to be signalled.

A probe goes from one end's inner address (home address or home agent's address), port `PORT_BASE` + BID, to the
other's, port 862, and its answer back. Two rules for each BID, of top priority, nail both kinds to the tunnel of that
BID: probes of the mobile node with the home agent's answers, and probes of the home agent with the mobile node's.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address

from mip6.forwarding import FlowRule, Node, Tunnel
from mip6.numbers import Protocol
from mip6.selectors import IPv6Selector
from mip6.stamp import REFLECTOR_PORT

PORT_BASE = 61000  # behind the ports that Linux gives out by itself (32768 to 60999)
MAXIMUM_BID = 0xFFFF - PORT_BASE  # paths of BIDs beyond are not measured
PROBE_FID = 0  # no flow binding has this FID (RFC 6089 §4.2)


def probe_port(bid: int) -> int:
    """The port that probes of this BID come from."""
    return PORT_BASE + bid


def probe_rules(home_address: IPv6Address, home_agent: IPv6Address, bids: Iterable[int]) -> tuple[FlowRule, ...]:
    """The rules, in the home agent's direction as all rules are: from its address to the home address."""
    rules = []
    for bid in bids:
        if bid > MAXIMUM_BID:
            continue
        port = probe_port(bid)
        for source, destination in ((REFLECTOR_PORT, port), (port, REFLECTOR_PORT)):
            selector = IPv6Selector(
                source=(home_agent, home_agent),
                destination=(home_address, home_address),
                source_port=(source, source),
                destination_port=(destination, destination),
                next_header=(Protocol.UDP, Protocol.UDP),
            )
            rules.append(FlowRule(PROBE_FID, 0, selector, (bid,)))
    return tuple(rules)


def is_probe_rule(rule: FlowRule) -> bool:
    """Whether a rule is one of these and not somebody's flow."""
    return rule.fid == PROBE_FID and not rule.drop


def probed(node: Node) -> tuple[IPv6Address | None, dict[int, Tunnel]]:
    """What the probe rules of a node measure: the home agent's inner address and the tunnels, by BID."""
    rules = [rule for rule in node.rules if is_probe_rule(rule)]
    bids = {bid for rule in rules for bid in rule.bids}
    home_agent = None
    for rule in rules[:1]:
        if isinstance(rule.selector, IPv6Selector) and rule.selector.source is not None:
            home_agent = rule.selector.source[0]
    return home_agent, {tunnel.bid: tunnel for tunnel in node.tunnels if tunnel.bid in bids}
