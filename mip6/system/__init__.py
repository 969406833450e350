"""The agent's hands: sockets, netlink, the control socket, the log. Everything here touches the machine, nothing decides."""
