"""One lab for the tests that only send traffic, and a fresh one for each test that kills an agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netns.support import Car, car_lab


@pytest.fixture(scope="module")
def car() -> Iterator[Car]:
    """Registered, and shared by a module: a test leaves it as it was. Nothing but the tests' packets is counted."""
    with car_lab(paths={"probe": False}) as car:
        car.start()
        yield car


@pytest.fixture
def parked() -> Iterator[Car]:
    """A lab of the test's own; no agent runs yet."""
    with car_lab() as car:
        yield car
