"""The rate of each pass of each op, on one thread: `pytest benchmarks -m bench`.

An op is timed inside a second-order meta-step with one inner step whose network is little else: a
stack of equal layers. The engine times every instruction of the step (`CompiledPlan.profile`), and
an op's instructions are summed by pass. Contractions are reported in GFLOP/s, all other ops in
Gelements/s: the numbers of the layer's output, once for every visit of the pass. Rates come from
the median over rounds; pytest-benchmark's own table shows whole profiled steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.passes import PASSES, PassTotal, Profiled, total_by_pass

_engine = pytest.importorskip("fastmaml._engine", reason="fastmaml is not installed")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not _engine.available(), reason="fastmaml's engine is not built"),
]

TASKS = 16
CASE_SECONDS, FEWEST_ROUNDS, MOST_ROUNDS = 0.5, 3, 50


@dataclass(frozen=True, slots=True)
class LinearCase:
    """A stack of linear layers of one width on `rows` rows per task."""

    width: int
    rows: int
    factored: bool = False
    depth: int = 4

    def __str__(self) -> str:
        """As the case is called in the table."""
        return f"{self.width}x{self.rows}{'-factored' * self.factored}"


LINEAR_CASES = [
    LinearCase(40, 10),
    LinearCase(64, 5),
    LinearCase(256, 5),
    LinearCase(256, 5, factored=True),
    LinearCase(256, 25),
    LinearCase(1024, 25, depth=2),
    LinearCase(1024, 25, factored=True, depth=2),
]


class Double(nn.Module):
    """x + x, the residual add of a value to itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return x + x


LAYERS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {  # name: (op, layer of a width)
    "relu": ("relu", lambda _: nn.ReLU()),
    "leaky_relu": ("leaky_relu", lambda _: nn.LeakyReLU()),
    "elu": ("elu", lambda _: nn.ELU()),
    "gelu": ("gelu", lambda _: nn.GELU()),
    "gelu_tanh": ("gelu", lambda _: nn.GELU(approximate="tanh")),
    "silu": ("silu", lambda _: nn.SiLU()),
    "softplus": ("softplus", lambda _: nn.Softplus()),
    "tanh": ("tanh", lambda _: nn.Tanh()),
    "sigmoid": ("sigmoid", lambda _: nn.Sigmoid()),
    "batch_norm": ("batch_norm", nn.BatchNorm1d),
    "add": ("add", lambda _: Double()),
}
LOSSES = ["mse", "cross_entropy", "bce_with_logits"]
WIDTH, ROWS, COPIES = 512, 32, 8


def measure(
    benchmark: Any, step: Profiled, totals: Callable[[Any], dict[str, PassTotal]]
) -> dict[str, PassTotal]:
    """Repeat a step; every pass that ran with its median seconds."""
    step()
    first = sum(time.seconds for time in step.times[0])
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(CASE_SECONDS / first)))
    benchmark.pedantic(step, rounds=rounds)
    found = [totals(times) for times in step.times[1:]]
    result = found[0]
    for name, total in result.items():
        total.seconds = median(one[name].seconds for one in found)
    assert set(result) >= set(PASSES)
    return result


def report(benchmark: Any, unit: str, amounts: dict[str, tuple[float, float]]) -> None:
    """Leave the rates of all passes, from amount and seconds, with the benchmark."""
    benchmark.extra_info["unit"] = unit
    for name, (amount, seconds) in amounts.items():
        benchmark.extra_info[name] = round(amount / seconds / 1e9, 2)


@pytest.mark.parametrize("case", LINEAR_CASES, ids=str)
def test_linear(benchmark: Any, case: LinearCase) -> None:
    """A stack of linear layers; the sums over tasks hold the weight gradients of factored ones."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(case.width, case.width) for _ in range(case.depth)))
    x = torch.randn(TASKS, case.rows, case.width)
    step = Profiled(model, (x, torch.sin(x)), "mse", factored=int(case.factored))
    layers = step.layers("linear")
    found = measure(benchmark, step, lambda t: total_by_pass(t, layers, whole_program=True))
    report(benchmark, "GFLOP/s", {name: (t.flops, t.seconds) for name, t in found.items()})


@pytest.mark.parametrize("name", LAYERS)
def test_elementwise(benchmark: Any, name: str) -> None:
    """A stack of the op between two thin linear layers."""
    torch.manual_seed(0)
    op, layer = LAYERS[name]
    stack = [layer(WIDTH) for _ in range(COPIES)]
    model = nn.Sequential(nn.Linear(1, WIDTH), *stack, nn.Linear(WIDTH, 1))
    x = torch.randn(TASKS, ROWS, 1)
    step = Profiled(model, (x, torch.sin(x)), "mse")
    layers = step.layers(op)
    found = measure(benchmark, step, lambda t: total_by_pass(t, layers))
    numbers = TASKS * ROWS * WIDTH
    report(benchmark, "Gelements/s", {n: (numbers * t.visits, t.seconds) for n, t in found.items()})


@pytest.mark.parametrize("width", [5, WIDTH])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss(benchmark: Any, loss: str, width: int) -> None:
    """The loss after one thin linear layer with so many outputs."""
    torch.manual_seed(0)
    x, y = torch.randn(TASKS, ROWS, 1), torch.rand(TASKS, ROWS, width)
    step = Profiled(nn.Linear(1, width), (x, y.argmax(-1) if loss == "cross_entropy" else y), loss)
    found = measure(benchmark, step, lambda t: total_by_pass(t, {loss}))
    numbers = TASKS * ROWS * width
    report(benchmark, "Gelements/s", {n: (numbers * t.visits, t.seconds) for n, t in found.items()})
