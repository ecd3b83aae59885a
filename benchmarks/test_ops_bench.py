"""GFLOP/s of each op's passes with pytest-benchmark: `pytest benchmarks -m bench`.

An op is timed inside a meta-step whose network is little else: a stack of equal layers. With no
inner step a meta-step is the forward and the backward pass; with one it adds both passes of the
Hessian-vector product. The necessary arithmetic of the step over its time is reported as `gflops`;
ops without contractions report `gelements`, the elements they map per second, counting every pass
of every copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.rivals.ours import Fastmaml
from benchmarks.workloads import Workload, make_problem

_engine = pytest.importorskip("fastmaml._engine", reason="fastmaml is not installed")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not _engine.available(), reason="fastmaml's engine is not built"),
]

THREADS = 2
TASKS = 16
# Passes over the rows per copy of an op: forward and backward on the query rows without inner
# steps; with one, forward, backward and their tangents on the support rows as well.
PASSES = {0: 2, 1: 6}


@dataclass(frozen=True, slots=True)
class LinearCase:
    """A stack of linear layers of one width on `rows` rows per task."""

    width: int
    rows: int
    depth: int = 4


LINEAR_CASES = [
    LinearCase(40, 10),
    LinearCase(64, 5),
    LinearCase(256, 5),
    LinearCase(256, 25),
    LinearCase(1024, 25),
]

POINTWISE: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "leaky_relu": lambda _: nn.LeakyReLU(),
    "elu": lambda _: nn.ELU(),
    "gelu": lambda _: nn.GELU(),
    "gelu_tanh": lambda _: nn.GELU(approximate="tanh"),
    "silu": lambda _: nn.SiLU(),
    "softplus": lambda _: nn.Softplus(),
    "tanh": lambda _: nn.Tanh(),
    "sigmoid": lambda _: nn.Sigmoid(),
    "batch_norm": nn.BatchNorm1d,
}
POINTWISE_WIDTH, POINTWISE_ROWS, POINTWISE_COPIES = 512, 32, 16


@pytest.fixture(autouse=True)
def _two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("inner_steps", [0, 1])
@pytest.mark.parametrize("case", LINEAR_CASES, ids=lambda c: f"{c.width}x{c.rows}")
def test_linear(benchmark: Any, case: LinearCase, inner_steps: int) -> None:
    """Contractions: GFLOP/s of a stack of linear layers."""
    workload = Workload(
        name="linear",
        title="linear",
        widths=(case.width,) * (case.depth + 1),
        loss="cross_entropy",
        tasks=TASKS,
        support_rows=case.rows,
        query_rows=case.rows,
        inner_steps=inner_steps,
        inner_lr=0.01,
    )
    contestant = Fastmaml()
    contestant.prepare(make_problem(workload, "float32"))
    benchmark(contestant.step)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["gflops"] = round(workload.necessary_flops / seconds / 1e9, 2)


@pytest.mark.parametrize("inner_steps", [0, 1])
@pytest.mark.parametrize("op", POINTWISE)
def test_pointwise(benchmark: Any, op: str, inner_steps: int) -> None:
    """Everything else: elements per second of a stack of the op between two thin linear layers."""
    import fastmaml

    generator = torch.Generator().manual_seed(0)
    layers = [POINTWISE[op](POINTWISE_WIDTH) for _ in range(POINTWISE_COPIES)]
    model = nn.Sequential(nn.Linear(1, POINTWISE_WIDTH), *layers, nn.Linear(POINTWISE_WIDTH, 1))
    x = torch.randn(TASKS, POINTWISE_ROWS, 1, generator=generator)
    data = (x, torch.sin(x))

    def step() -> Any:
        model.zero_grad()
        return fastmaml.meta_step(
            model, data, data, loss="mse", inner_lr=0.01, inner_steps=inner_steps, backend="fused"
        )

    benchmark(step)
    elements = TASKS * POINTWISE_ROWS * POINTWISE_WIDTH * POINTWISE_COPIES * PASSES[inner_steps]
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["gelements"] = round(elements / seconds / 1e9, 2)
