"""The command `mip6`: looks at captures and running agents, and runs the labs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# Each command's module has add_parser(subparsers), which sets `run` to a function from arguments to exit status.
# A module is imported only when its command is asked for: scapy and pyroute2 take long to load.
COMMANDS = {
    "decode": ("mip6.decode", "print the mobility messages of a capture"),
    "lab": ("labs.cli", "run scenarios in network namespaces"),
    "status": ("mip6.status", "show what a running home agent or mobile node does"),
    "explain": ("mip6.explaincommand", "say which rule a packet meets and which links it takes, and why"),
    "flow": ("mip6.flowcommand", "change the flow rules of a running mobile node, at both ends"),
    "replay": ("mip6.replay", "give a recorded run to a fresh engine and compare"),
    "reload": ("mip6.reloadcommand", "make a running mobile node read the rules of its file again"),
    "revoke": ("mip6.revoke", "end bindings of a mobile node at the home agent"),
    "cleanup": ("mip6.cleanup", "remove what an agent that no longer runs has left in the kernel"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of the command that the arguments name."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="mip6", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in words if not word.startswith("-")), None)
    for name, (module, about) in COMMANDS.items():
        if name == asked:
            import_module(module).add_parser(commands)
        else:
            commands.add_parser(name, help=about)
    parsed = parser.parse_args(words)
    status: int = parsed.run(parsed)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
