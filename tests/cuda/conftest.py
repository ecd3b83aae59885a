"""Where the tests of this folder run: on a CUDA device, or with --on-fibers on the host's fake one.

`make test-cuda` runs them. Tests that need what only a device has (streams, graphs, memory that
runs out) are skipped on fibers; all others can be tried there before a device is at hand:
`pytest -m cuda tests/cuda --on-fibers`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from device_code import on_fibers
from place import Place, absence


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on-fibers", action="store_true", help="tests/cuda: run device code on the host"
    )


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The first CUDA device, or the CPU whose calls run device code; skips where there is none."""
    if request.config.getoption("--on-fibers", default=False):
        with on_fibers():
            yield Place(torch.device("cpu"))
        return
    reason = absence()
    if reason:
        pytest.skip(f"no CUDA device: {reason}")
    yield Place(torch.device("cuda", 0))


@pytest.fixture
def gpu(place: Place) -> Place:
    """The same, but a real one."""
    if place.device.type != "cuda":
        pytest.skip("needs a CUDA device: fibers have neither streams nor memory of their own")
    return place
