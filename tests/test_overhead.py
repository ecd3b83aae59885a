"""The benchmark of a call's overhead: it checks first, and what it prints."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastmaml
from benchmarks import __main__ as command
from benchmarks import overhead
from benchmarks.check import FLOAT64_LIMIT, RefusedError
from benchmarks.timing import Spread


@pytest.mark.parametrize("tensors", [1, 2, 5])
def test_chains_have_as_many_parameters(tensors: int) -> None:
    chain = overhead.Chain(tensors)
    assert len(chain.parameters) == tensors
    assert all(p.grad is not None for p in chain.parameters)
    assert overhead.check(tensors) <= FLOAT64_LIMIT


def test_a_wrong_gradient_is_not_timed() -> None:
    def wrong(model: torch.nn.Module, *data: Any, **settings: Any) -> None:
        fastmaml.meta_step(model, *data, **settings)
        for parameter in model.parameters():
            parameter.grad *= 1.001

    with pytest.raises(RefusedError, match=r"3 tensors: the meta-gradient is .* off in float64"):
        overhead.check(3, wrong)


def test_the_engine_is_timed_inside_the_call() -> None:
    threads = torch.get_num_threads()
    one, five = overhead.run([1, 5], rounds=2)
    assert torch.get_num_threads() == threads
    assert (one.tensors, five.tensors) == (1, 5)
    for cost in (one, five):
        assert 0.0 < cost.engine.best <= cost.engine.median
        assert 0.0 < cost.overhead.best <= cost.overhead.median


def test_a_line_through_the_medians() -> None:
    costs = [
        overhead.Cost(n, Spread(1e-6, 1e-6, 1e-6, 1e-6), Spread(2e-5 + n * 5e-7, 1e-5, 3e-5, 1e-5))
        for n in (1, 10, 200)
    ]
    constant, slope = overhead.per_tensor(costs)
    assert (round(constant * 1e6, 6), round(slope * 1e6, 6)) == (20.0, 0.5)
    text = overhead.render(costs)
    assert text.splitlines()[-1] == "about 20.0 µs a call and 0.50 µs a tensor"
    assert "10.0 to 30.0" in text
    assert len(overhead.render(costs[:1]).splitlines()) == 2


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["overhead", "--tensors", "1", "4", "--rounds", "1"]) == 0
    assert "µs a tensor" in capsys.readouterr().out
