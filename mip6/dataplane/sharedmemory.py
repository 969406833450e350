"""The memory of a userspace data plane that runs beside programs in the kernel.

Of one packet's copies some may come to the programs and some to userspace: in outer fragments, as inner fragments, in
UDP. Exactly one is to be delivered, so userspace asks the programs' memory about each of its own, by running one of
them. (Which tunnel a shared flow takes needs no such care: docs/decisions/load-sharing.md.)
"""

from __future__ import annotations

import errno

from mip6.dataplane.libbpf import LibbpfError, Program
from mip6.memory import Memory

ELIMINATE = "eliminate"
_ETHERNET = bytes(12) + b"\x88\xb5"  # of no protocol that the kernel looks into
_ANSWERS = {0: False, 1: True}


class SharedMemory(Memory):
    """The same, and of duplicates that of `program` (ELIMINATE) while there is one."""

    program: Program | None = None

    def is_duplicate(self, packet: bytes, path: int, now: float) -> bool:
        """As the kernel says. Linux takes no test run with more than about 3,700 octets: larger packets, which only
        links with jumbo frames bring here, are told apart here alone."""
        if self.program is not None:
            try:
                answer = _ANSWERS.get(self.program.ask(_ETHERNET + packet, path))
            except LibbpfError as error:
                if error.errno not in (errno.EINVAL, errno.EMSGSIZE):
                    raise
            else:
                if answer is not None:
                    return answer
        return super().is_duplicate(packet, path, now)
