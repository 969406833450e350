"""Settings of the kernel under /proc/sys: what the agent sets and gives back, and what it only complains of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mip6.system import log

_SYSCTL = Path("/proc/sys/net/ipv6")
_IPV4_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class HomeLinkSettings:
    """What proxy neighbour discovery needs of a home link: proxy_ndp=1, and proxy_delay=0 so that it answers at once.

    The constructor sets both (OSError names the file that could not be written), `restore()` gives the old values back.
    They are noted in the file `memory` until then, so that the run after a crash still knows them.
    """

    def __init__(self, device: str, memory: Path) -> None:
        self._memory = memory
        wanted = {f"conf/{device}/proxy_ndp": "1", f"neigh/{device}/proxy_delay": "0"}
        self._old = self._noted(wanted)
        if not self._old:
            self._old = {name: (_SYSCTL / name).read_text().strip() for name in wanted}
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(json.dumps(self._old))
        for name, value in wanted.items():
            (_SYSCTL / name).write_text(value)

    def restore(self) -> None:
        """Give the old values back, as far as the device still exists."""
        for name, value in self._old.items():
            setting = _SYSCTL / name
            if setting.exists():
                setting.write_text(value)
        self._memory.unlink(missing_ok=True)

    def _noted(self, names: Iterable[str]) -> dict[str, str]:
        """What a run that crashed has noted of the settings `names`."""
        try:
            noted = _read_noted(self._memory)
            return {name: noted[name] for name in names}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError) as error:  # the crash came while it was written, or of another link
            log.event("noted_settings_unreadable", "warning", file=self._memory, error=str(error))
            return {}


def restore_noted(memory: Path) -> list[str]:
    """Give back what a run has noted in the file `memory`, if there is one; the settings, one line each.

    ValueError when the file does not hold that."""
    try:
        noted = _read_noted(memory)
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{memory}: expected settings that a home agent noted: {error}") from error
    given = []
    for name, value in noted.items():
        if (setting := _SYSCTL / name).exists():
            setting.write_text(value)
            given.append(f"{setting} = {value}")
    memory.unlink()
    return given


def _read_noted(memory: Path) -> dict[str, str]:
    return {str(name): str(int(value)) for name, value in json.loads(memory.read_text()).items()}


def settings_warnings(forwarding: bool, access_links: Iterable[str], ipv4: bool = False) -> list[str]:
    """What is set wrongly in the kernel, one sentence each with the command that mends it.

    `forwarding`: the agent is a router (home agent, mobile router), `ipv4`: of IPv4 too. `access_links`: where care-of
    addresses come from.
    """
    wrong = []
    if forwarding and (_SYSCTL / "conf/all/forwarding").read_text().strip() == "0":
        wrong.append("IPv6 forwarding is off, so nothing is routed: sysctl -w net.ipv6.conf.all.forwarding=1")
    if forwarding and ipv4 and _IPV4_FORWARDING.read_text().strip() == "0":
        wrong.append("IPv4 forwarding is off, so no IPv4 is routed: sysctl -w net.ipv4.ip_forward=1")
    for link in access_links:
        setting = _SYSCTL / "conf" / link
        if not setting.exists():
            continue
        accept, routing = ((setting / name).read_text().strip() for name in ("accept_ra", "forwarding"))
        if accept == "0" or (accept == "1" and (forwarding or routing != "0")):
            command = f"sysctl -w net.ipv6.conf.{link.replace('.', '/')}.accept_ra=2"
            wrong.append(f"{link} ignores router advertisements (accept_ra={accept}): {command}")
    return wrong
