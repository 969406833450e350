"""How long things may take here: limits hold for an ordinary machine, one that is known to be slow multiplies them.

`MIP6_TIME_FACTOR=10` in the environment is for machines whose every instruction is emulated (`make test-vm`).
"""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("MIP6_TIME_FACTOR", "1"))
