"""The loop as torch's users write it: draw, `zero_grad`, meta-gradient into `.grad`, Adam."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import fastmaml
from benchmarks.loops.base import Loop, State, Tasks
from benchmarks.loops.drawing import drawer
from benchmarks.loops.workloads import META_LR, SEED, LoopWorkload
from benchmarks.rivals.base import TorchRival, flatten
from benchmarks.rivals.ours import Fastmaml
from benchmarks.workloads import make_problem

# Sizes between a loop's steps: large enough that torch shares them among its threads.
ELEMENTS, SIDE = 10**6, 512


class TorchLoop(Loop):
    """A contestant's meta-gradient between torch's own optimizer and draws."""

    def __init__(
        self,
        rival: type[TorchRival],
        *,
        threads: int | None = None,
        engine: int | None = None,
        fused: bool = True,
    ) -> None:
        """Say whose loop it is.

        Args:
            rival: Adds the meta-gradient to `.grad`.
            threads: For `torch.set_num_threads`; None leaves torch's default.
            engine: For `fastmaml.set_num_threads`, 0 as many as torch's default; None follows
                torch.
            fused: Whether Adam runs with `fused=True`; False leaves torch's default.
        """
        self._rival_class = rival
        self._threads = threads
        self._engine = engine
        self._adam = {"fused": True} if fused else {}

    def threads(self) -> int:
        ours = self._rival_class is Fastmaml
        return fastmaml.get_num_threads() if ours else super().threads()

    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        if self._engine is not None:
            fastmaml.set_num_threads(self._engine or torch.get_num_threads())
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        problem = make_problem(loop.workload, dtype)
        self._rival = self._rival_class()
        self._rival.prepare(problem)
        self._optimizer = torch.optim.Adam(self._rival.parameters, META_LR, **self._adam)
        self._draw = drawer(loop, problem.torch_dtype)
        self._regions = regions() if loop.regions else None
        torch.manual_seed(SEED)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            support, query = self._draw()
            self._optimizer.zero_grad()
            self._rival.add_gradients(support, query)
            self._optimizer.step()
            if self._regions is not None:
                self._regions()

    def coming(self) -> Tasks:
        before = torch.get_rng_state()
        (sx, sy), (qx, qy) = self._draw()
        torch.set_rng_state(before)
        return (sx.numpy(), sy.numpy()), (qx.numpy(), qy.numpy())

    def state(self) -> State:
        parameters, kept = self._rival.parameters, self._optimizer.state
        means, squares = (
            [kept[p].get(key, torch.zeros_like(p)) for p in parameters]
            for key in ("exp_avg", "exp_avg_sq")
        )
        return State(_flat(parameters), _flat(means), _flat(squares))


class RegionsLoop(Loop):
    """The large torch operations alone, to subtract from a loop that has them."""

    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        self._regions = regions()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._regions()

    def coming(self) -> Tasks:
        raise NotImplementedError("regions draw no tasks")

    def state(self) -> State:
        return State(np.zeros(0), np.zeros(0), np.zeros(0))


def regions() -> Callable[[], None]:
    """An elementwise operation and a matrix product, each large enough for torch's threads."""
    x, out = torch.rand(ELEMENTS), torch.empty(ELEMENTS)
    a, product = torch.rand(SIDE, SIDE), torch.empty(SIDE, SIDE)

    def run() -> None:
        torch.exp(x, out=out)
        torch.mm(a, a, out=product)

    return run


def _flat(tensors: list[Tensor]) -> npt.NDArray[np.float64]:
    return flatten([tensor.detach().numpy() for tensor in tensors])
