"""What a call takes beside the engine: checks, allocation and `.grad`, by the number of parameters.

The networks are chains of 4 x 4 linear layers on one task of one row. A call's overhead is its time
less that of the engine's run inside it, so that both see the same caches. Gradients are dropped
between calls, untimed, as `optimizer.zero_grad()` does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import fastmaml
from benchmarks.check import FLOAT64_LIMIT, RefusedError
from benchmarks.timing import Spread
from fastmaml.engine.plan import lookup

FEATURES = 4
CALLS = 20  # of one network in a round

Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls on one network took, in seconds.

    Attributes:
        tensors: Trainable parameters of the network.
        engine: The engine's run.
        overhead: The rest of the call.
    """

    tensors: int
    engine: Spread
    overhead: Spread


class _Timed:
    """Stands in for the engine's plan and times its runs."""

    def __init__(self, plan: Any) -> None:
        self._plan, self.seconds = plan, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def run(self, *arguments: Any) -> str:
        start = time.perf_counter()
        executor: str = self._plan.run(*arguments)
        self.seconds = time.perf_counter() - start
        return executor


class Chain:
    """A network of so many parameters, with data, ready to be called."""

    def __init__(self, tensors: int, dtype: torch.dtype = torch.float32) -> None:
        """Make it and call it once."""
        torch.manual_seed(0)
        layers = [nn.Linear(FEATURES, FEATURES, dtype=dtype) for _ in range((tensors + 1) // 2)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight)
        if tensors % 2:
            layers[-1].bias = None
        self.model = nn.Sequential(*layers)
        self.parameters = list(self.model.parameters())
        self.data: tuple[Pair, Pair] = (self._rows(dtype), self._rows(dtype))
        self.step()

    @staticmethod
    def _rows(dtype: torch.dtype) -> Pair:
        return torch.randn(1, 1, FEATURES, dtype=dtype), torch.randn(1, 1, FEATURES, dtype=dtype)

    def step(self, call: Any = fastmaml.meta_step) -> float:
        """Seconds of one call."""
        for parameter in self.parameters:
            parameter.grad = None
        support, query = self.data
        start = time.perf_counter()
        call(self.model, support, query, loss="mse", inner_lr=0.01)
        return time.perf_counter() - start

    def gradient(self) -> np.ndarray[Any, Any]:
        """All gradients as one vector."""
        return np.concatenate([p.grad.numpy().ravel() for p in self.parameters])

    def timed(self) -> _Timed:
        """Time the engine's runs from now on."""
        (traced,) = lookup(self.model).networks.values()
        (plan,) = traced.plans.values()  # type: ignore[union-attr]
        plan.plan = timed = _Timed(plan.plan)
        return timed


def check(tensors: int, call: Any = fastmaml.meta_step) -> float:
    """The relative error of the meta-gradient in float64.

    Raises:
        RefusedError: It is beyond the limit.
    """
    chain = Chain(tensors, torch.float64)
    chain.step(call)
    found = chain.gradient()
    chain.step(fastmaml.reference.meta_step)
    truth = chain.gradient()
    error = float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    if not error <= FLOAT64_LIMIT:
        raise RefusedError(f"{tensors} tensors: the meta-gradient is {error:.1e} off in float64")
    return error


def run(sizes: Sequence[int], rounds: int) -> list[Cost]:
    """Check, then time calls on one thread, the networks in turns.

    Args:
        sizes: Numbers of trainable parameters.
        rounds: Visits of each network.

    Raises:
        RefusedError: A meta-gradient is wrong.
    """
    for size in sizes:
        check(size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chains = [Chain(size) for size in sizes]
        clocks = [chain.timed() for chain in chains]
        engine: list[list[float]] = [[] for _ in sizes]
        beside: list[list[float]] = [[] for _ in sizes]
        for _ in range(rounds):
            for chain, clock, runs, rest in zip(chains, clocks, engine, beside, strict=True):
                for _ in range(CALLS):
                    seconds = chain.step()
                    runs.append(clock.seconds)
                    rest.append(seconds - clock.seconds)
    finally:
        torch.set_num_threads(threads)
    return [
        Cost(size, Spread.of(runs), Spread.of(rest))
        for size, runs, rest in zip(sizes, engine, beside, strict=True)
    ]


def per_tensor(costs: Sequence[Cost]) -> tuple[float, float]:
    """Seconds of a call without tensors, and of each tensor: a line through the medians."""
    counts = [cost.tensors for cost in costs]
    slope, constant = np.polyfit(counts, [cost.overhead.median for cost in costs], 1)
    return float(constant), float(slope)


def render(costs: Sequence[Cost]) -> str:
    """The costs as a table, and the line through them."""
    lines = [f"{'tensors':>8}{'engine':>10}{'beside it':>11}{'quartiles':>18}{'best':>9}  µs"]
    for cost in costs:
        rest = cost.overhead
        quartiles = f"{rest.lower * 1e6:.1f} to {rest.upper * 1e6:.1f}"
        lines.append(
            f"{cost.tensors:8}{cost.engine.median * 1e6:10.1f}{rest.median * 1e6:11.1f}"
            f"{quartiles:>18}{rest.best * 1e6:9.1f}"
        )
    if len(costs) > 1:
        constant, slope = per_tensor(costs)
        lines.append(f"about {constant * 1e6:.1f} µs a call and {slope * 1e6:.2f} µs a tensor")
    return "\n".join(lines)
