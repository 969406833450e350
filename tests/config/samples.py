"""A right file of each daemon."""

from __future__ import annotations

from pathlib import Path

KEY = "000102030405060708090a0b0c0d0e0f"


HOME_AGENT = f"""
[homeagent]
address = "2001:db8:100::1"
home_prefixes = ["2001:db8:100::/64"]

[[node]]
home_address = "2001:db8:100::5"
identifier = "mr@example.com"
prefixes = ["2001:db8:f00::/56"]
  [[node.key]]
  spi = 4096
  key = "{KEY}"
  [[node.drop]]
  source = "2001:db8:bad::/48"

[[node]]
home_address = "2001:db8:100::6"
identifier = "second@example.com"
prefixes = ["2001:db8:f01::/56"]
  [[node.key]]
  spi = 4096
  key = "{KEY}"
"""


MOBILE_NODE = f"""
[mobilenode]
home_address = "2001:db8:100::5"
home_agent = "2001:db8:100::1"
home_prefix = "2001:db8:100::/64"
prefixes = ["2001:db8:f00::/56"]
  [mobilenode.key]
  spi = 4096
  key = "{KEY}"

[[link]]
name = "wlan0"
bid = 1
priority = 10

[[link]]
name = "wwan0"
bid = 2
priority = 20

[[flow]]
name = "voice"
via = ["wwan0", "wlan0"]
protocol = "udp"
source = "2001:db8:c::/64"
destination = "2001:db8:f00::1-2001:db8:f00::9"
source_port = "5000-5010"
destination_port = 5004
dscp = "46"
flow_label = "1-5"

[[flow]]
copy = ["wwan0", "wlan0"]
spi = 4096

[[flow]]
drop = true
protocol = 132
"""


def write(directory: Path, text: str) -> Path:
    file = directory / "agent.toml"
    file.write_text(text)
    return file
