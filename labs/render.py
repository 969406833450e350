"""What a topology means in the words of ip, tc, sysctl, radvd, nft and TOML. Pure: text from data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from labs.emulation import Quality
from labs.flows import DOWN, UP, Download, Flow
from labs.topology import RELAY, Advertisement, Interface, Link, Node, Route, Topology
from mip6.forwarding import DSMIP_PORT

COUNTER_TABLE = "lab"
TOTAL = "total"
_PROTOCOLS = {"tcp": 6, "udp": 17}
_UDP_SIZE = 8
_TCP_FLAGS_AT, _SYN = 13, 2
_INNER = {
    6: (41, 6, 40),
    4: (4, 9, 20),
}  # by version: its number in a tunnel, octet of the protocol, size of the header
_SYSCTL = "net.ipv6.conf"
_BRIDGE = "br0"
_AS_FAST_AS_THE_MACHINE = 10_000_000_000  # bit/s
_LEAST_LIMIT = 100  # packets
_LAST_RESORT = 4096  # metric behind that of every other route to the same destination


def link_commands(topology: Topology, namespaces: Mapping[str, str], *, netem: bool = False) -> list[str]:
    """`ip -batch` lines that create every link but the modems', each end at once in its namespace.

    Interface indexes are given, all different: the kernel reports a loss of carrier at once only where a veth's index
    differs from its peer's, and otherwise up to a second later (linkwatch_urgent_event). An emulated link is two
    pairs, whose far ends are in the relay's namespace, unless `netem` emulates it.
    """
    commands = []
    for number, link in enumerate(topology.links):
        if link.modem:
            continue
        ends = [(interface, namespaces[node]) for node, interface in link.ends]
        if relayed(link, netem=netem):
            pairs = [(end, (peer, namespaces[RELAY])) for end, peer in zip(ends, peers(number), strict=True)]
        else:
            pairs = [(ends[0], ends[1])]
        for pair, ((a, a_namespace), (b, b_namespace)) in enumerate(pairs):
            index = 10 + 4 * number + 2 * pair
            commands.append(
                f"link add name {a} index {index} mtu {link.mtu} netns {a_namespace} type veth "
                f"peer name {b} index {index + 1} mtu {link.mtu} netns {b_namespace}"
            )
    return commands


def modem_commands(topology: Topology, node: Node) -> list[str]:
    """`ip -batch` lines, inside the node: the TUN devices that are its ends of modem links."""
    return [
        line
        for link in topology.links
        if link.modem
        for name, interface in link.ends
        if name == node.name
        for line in (f"tuntap add dev {interface} mode tun", f"link set {interface} mtu {link.mtu}")
    ]


def relayed(link: Link, *, netem: bool) -> bool:
    """Whether the relay carries this link: always a modem's, and every emulated one where there is no netem."""
    return link.modem or (link.is_emulated and not netem)


def peers(number: int) -> tuple[str, str]:
    """What the far ends of both pairs of an emulated link are called in the relay's namespace."""
    return f"l{number}a", f"l{number}b"


def sysctls(node: Node) -> list[str]:
    """`key=value` settings of a node, to be made before its interfaces go up."""
    settings = [
        f"{_SYSCTL}.{scope}.{key}"
        for scope in ("all", "default")
        for key in ("disable_ipv6=0", "accept_dad=0", "accept_ra=0", "keep_addr_on_down=1")
    ]
    settings.append(f"{_SYSCTL}.all.forwarding={int(node.forwarding)}")
    settings.append(f"net.ipv4.ip_forward={int(node.forwarding)}")
    settings += [f"net.ipv4.conf.{scope}.rp_filter=0" for scope in ("all", "default")]  # several uplinks
    for interface in node.interfaces:
        key = f"{_SYSCTL}.{interface.name.replace('.', '/')}"
        # 2: also on a node that forwards, where Linux otherwise ignores router advertisements
        settings.append(f"{key}.accept_ra={2 if interface.autoconf else 0}")
        settings.append(f"{key}.accept_dad={int(interface.dad)}")
    return settings


def interface_commands(node: Node) -> list[str]:
    """`ip -batch` lines, inside the node: addresses, interfaces up."""
    commands = ["link set lo up"]
    if node.switch:
        commands += [f"link add {_BRIDGE} type bridge mcast_snooping 0", f"link set {_BRIDGE} up"]
    for interface in node.interfaces:
        if node.switch:
            commands.append(f"link set {interface.name} master {_BRIDGE}")
        for address in interface.addresses:
            nodad = " nodad" if address.version == 6 else ""
            commands.append(f"address add {address} dev {interface.name}{nodad}")
        if interface.token is not None:
            commands.append(f"token set {interface.token} dev {interface.name}")
        commands.append(f"link set {interface.name} up")
    return commands


def route_commands(node: Node, device: str | None = None) -> list[str]:
    """`ip -batch` lines, inside the node, that make its routes so; only those by `device` if one is given."""
    return [_route_command(route) for route in node.routes if device is None or route.device == device]


def _route_command(route: Route) -> str:
    if route.device is None:
        return f"route replace unreachable {route.destination} metric {_LAST_RESORT}"
    via = "" if route.via is None else f" via {route.via}"
    return f"route replace {route.destination}{via} dev {route.device}"


def rate_commands(topology: Topology, node: Node, *, netem: bool = False) -> list[str]:
    """`tc -batch` lines, inside the node: what limits or, with `netem`, emulates what it sends over its links."""
    commands = []
    for link in topology.links:
        if relayed(link, netem=netem):
            continue
        for (name, interface), quality in zip(link.ends, link.qualities, strict=True):
            if name == node.name and link.is_emulated:
                commands.append(netem_command(interface, quality, link.mtu))
            elif name == node.name and quality.rate is not None:
                commands.append(
                    f"qdisc replace dev {interface} root tbf "
                    f"rate {quality.rate}bit burst {_burst(quality.rate, link.mtu)} limit {quality.queue}"
                )
    return commands


def _burst(rate: int, mtu: int) -> int:
    """Octets that pass at once: what the rate makes in 4 ms (a kernel tick), and always two packets."""
    return max(rate // 8 // 250, 2 * (mtu + 14))


def netem_command(interface: str, quality: Quality, mtu: int) -> str:
    """The `tc -batch` line that gives a direction these figures where the kernel has netem.

    There is always a rate: with one, netem keeps the packets in order. Its limit is in packets, under way included.
    """
    rate = quality.rate or _AS_FAST_AS_THE_MACHINE
    under_way = int(rate * quality.delay / 8) + quality.queue
    loss = 1.0 if quality.cut else quality.loss
    return (
        f"qdisc replace dev {interface} root netem limit {max(under_way // mtu, _LEAST_LIMIT)} rate {rate}bit"
        f" delay {quality.delay * 1e6:.0f}us {quality.jitter * 1e6:.0f}us loss {loss:.4%}"
    )


def radvd(node: Node) -> str:
    """radvd.conf of a node, empty when it advertises nothing."""
    return "\n".join(
        _radvd_interface(interface, interface.advertises) for interface in node.interfaces if interface.advertises
    )


def _radvd_interface(interface: Interface, advertises: Advertisement) -> str:
    low, high = advertises.interval
    on = "on" if advertises.home_agent else "off"
    return f"""interface {interface.name} {{
    AdvSendAdvert on;
    AdvIntervalOpt on;
    AdvHomeAgentFlag {on};
    MinRtrAdvInterval {low};
    MaxRtrAdvInterval {high};
    MinDelayBetweenRAs 0.03;
    AdvDefaultLifetime {advertises.router_lifetime};
    AdvDefaultPreference {advertises.preference};
    prefix {advertises.prefix} {{
        AdvOnLink on;
        AdvAutonomous on;
        AdvRouterAddr {on};
        AdvValidLifetime {advertises.valid_lifetime};
        AdvPreferredLifetime {advertises.preferred_lifetime};
    }};
}};
"""


def counters(topology: Topology, node: Node, flows: Iterable[Flow] = ()) -> str:
    """An nft ruleset that counts what the node forwards over its access links; empty when it has none.

    Named counters `LINK_FLOW_down` and `LINK_FLOW_up`, and LINK_total_* for everything. A flow is known by protocol and
    the correspondent's port, as a plain packet and inside every kind of tunnel. Of pages also LINK_FLOW_begun_*: the
    packets that open a connection (SYN up, SYN and ACK down).
    """
    names: list[str] = []
    rules: list[str] = []
    flows = tuple(flows)
    for name, link in topology.access_links.items():
        counting, interface = link.counted_at
        if counting != node.name:
            continue
        for direction, side, port in ((DOWN, "oifname", "sport"), (UP, "iifname", "dport")):
            names.append(counter := counter_name(name, TOTAL, direction))
            rules.append(f'{side} "{interface}" counter name {counter}')
            for flow in flows:
                names.append(counter := counter_name(name, flow.name, direction))
                rules += [f'{side} "{interface}" {match} counter name {counter}' for match in _matches(flow, port)]
                if isinstance(flow, Download) and flow.page:
                    names.append(counter := counter_name(name, begun(flow.name), direction))
                    opening = _matches(flow, port, begins=True)
                    rules += [f'{side} "{interface}" {match} counter name {counter}' for match in opening]
    if not names:
        return ""
    declared = "\n".join(f"    counter {name} {{}}" for name in names)
    chain = "\n".join(f"        {rule}" for rule in rules)
    return f"""table inet {COUNTER_TABLE} {{
{declared}
    chain forward {{
        type filter hook forward priority filter; policy accept;
{chain}
    }}
}}
"""


def _matches(flow: Flow, port: str, *, begins: bool = False) -> Iterator[str]:
    """Offsets in octets from the outer header; the header of version 4 is without options, as agents send it. `begins`:
    only what opens a connection of TCP."""
    syn = " tcp flags & syn == syn" if begins else ""
    yield f"meta nfproto ipv{flow.family} {flow.protocol} {port} {flow.port}{syn}"
    tunnel_protocol, inner_protocol_at, inner_size = _INNER[flow.family]
    for version, (_, outer_protocol_at, outer_size) in _INNER.items():
        outer = f"meta nfproto ipv{version}"
        encapsulated = (
            (f"{outer} {_raw(outer_protocol_at, 1)} {tunnel_protocol}", outer_size),
            (
                f"{outer} udp {port} {DSMIP_PORT} {_version(outer_size + _UDP_SIZE)} {flow.family}",
                outer_size + _UDP_SIZE,
            ),
        )
        for match, inner in encapsulated:
            port_at = inner + inner_size + (0 if port == "sport" else 2)
            protocol = f"{_raw(inner + inner_protocol_at, 1)} {_PROTOCOLS[flow.protocol]}"
            syn = f" {_raw(inner + inner_size + _TCP_FLAGS_AT, 1)} & {_SYN} == {_SYN}" if begins else ""
            yield f"{match} {protocol} {_raw(port_at, 2)} {flow.port}{syn}"


def _raw(octet: int, size: int) -> str:
    return f"@nh,{8 * octet},{8 * size}"


def _version(octet: int) -> str:
    return f"@nh,{8 * octet},4"


def begun(flow: str) -> str:
    """The name under which connections that begin are counted."""
    return f"{flow}_begun"


def counter_name(link: str, flow: str, direction: str) -> str:
    return f"{link}_{flow}_{direction}"


def toml(settings: Mapping[str, object]) -> str:
    """A mapping as TOML: scalars and lists first, then tables and arrays of tables, as deep as they go."""
    return "\n".join(_toml_lines(settings, ())) + "\n"


def _toml_lines(table: Mapping[str, object], path: tuple[str, ...]) -> Iterator[str]:
    inner: list[tuple[str, Mapping[str, object], str]] = []
    for key, value in table.items():
        name = ".".join((*path, key))
        if isinstance(value, Mapping):
            inner.append((key, value, f"[{name}]"))
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            inner += [(key, item, f"[[{name}]]") for item in value]
        else:
            yield f"{key} = {json.dumps(value)}"  # strings, numbers, booleans and lists are written alike in both
    for key, value, header in inner:
        yield ""
        yield header
        yield from _toml_lines(value, (*path, key))
