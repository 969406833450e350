"""200,000 hostile inputs through the decoders; `python -m tests.fuzz` runs longer."""

from __future__ import annotations

import pytest

from mip6.messages import MESSAGES as DECLARED
from tests.fuzz.fuzzer import MESSAGES, TARGETS, fuzz

SEED = 20240607
SHARES = {  # inputs for each decoder, 200,000 in all
    "decode_message": 70_000,
    "decode_options": 50_000,
    "decode_selector": 20_000,
    "parse_packet": 30_000,
    "decode_icmp6": 20_000,
    "stamp": 10_000,
}
CHUNKS = [
    (target, range(start, start + 10_000)) for target, count in SHARES.items() for start in range(0, count, 10_000)
]


def test_every_message_is_among_the_seeds() -> None:
    assert SHARES.keys() == TARGETS.keys()
    assert sum(SHARES.values()) == 200_000
    assert {type(message) for message in MESSAGES} == set(DECLARED)


@pytest.mark.parametrize(("target", "numbers"), CHUNKS, ids=lambda value: str(getattr(value, "start", value)))
def test_hostile_octets_give_a_value_or_a_form_error(target: str, numbers: range) -> None:
    print(f"seed {SEED}")
    outcome = fuzz(target, SEED, numbers)
    print(dict(outcome))
    assert outcome.total() == len(numbers)
    assert min(outcome["read"], outcome["refused"]) > len(numbers) // 20  # the inputs reach behind the first check
