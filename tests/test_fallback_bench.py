"""The benchmark of the fallback beside a plain loop: it checks first, and what it prints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import fallback
from benchmarks.check import FLOAT64_LIMIT, RefusedError


@pytest.mark.parametrize("network", fallback.NETWORKS)
def test_every_network_takes_part(network: str) -> None:
    if network != "wide":
        assert fallback.check(fallback.Case(network, 2, 2, False)) <= FLOAT64_LIMIT
    assert len(fallback.cases([network], [4, 16])) == 8


def test_a_wrong_gradient_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = fallback.Contest.ours

    def wrong(self: Any) -> None:
        ours(self)
        for parameter in self.parameters:
            parameter.grad *= 1.001

    monkeypatch.setattr(fallback.Contest, "ours", wrong)
    with pytest.raises(RefusedError, match=r"2 tasks .* the meta-gradient is .* off in float64"):
        fallback.check(fallback.Case("sinusoid", 2, 1, True))


def test_peak_bytes_are_those_alive_together() -> None:
    contest = fallback.Contest(fallback.Case("sinusoid", 2, 1, True))

    def step() -> None:
        first = torch.ones(1 << 18)
        second = first + 1
        del first
        second + 1

    assert fallback.peak_bytes(contest, step) == pytest.approx(2 << 20, rel=0.01)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fallback", "--networks", "sinusoid", "--tasks", "2", "--rounds", "1"]
    assert command.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4
    assert lines[0] == fallback.HEAD
    assert lines[1].startswith("sinusoid      2 tasks 1 steps second")
