"""The agent's hands: sockets, netlink, control socket, log. Everything here touches the machine, nothing decides."""
