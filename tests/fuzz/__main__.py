"""`python -m tests.fuzz --count N --seed S`: the fuzz test for as long as one likes."""

from __future__ import annotations

import argparse
import random

from tests.fuzz.fuzzer import TARGETS, fuzz


def main() -> int:
    """Exit status 1 with the input when a decoder fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each decoder")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    for target in TARGETS:
        try:
            outcome = fuzz(target, arguments.seed, range(arguments.count))
        except AssertionError as error:
            print(error)
            return 1
        print(f"{target}: " + ", ".join(f"{count} {what}" for what, count in outcome.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
