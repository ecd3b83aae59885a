"""The workloads, as data, and the arithmetic they need.

A workload is a multilayer perceptron, a task shape and the settings of one meta-step. Everything a
contestant sees (initial parameters, support and query rows) is made here once, in float64, from the
workload's seed, and rounded to the dtype of the run, so that all contestants solve the same
problem.

Letters: T tasks, S support rows, Q query rows, K inner steps, I/O in and out features of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.generic]
LossName = Literal["mse", "cross_entropy"]

# A layer's necessary work in units of one forward contraction over the same rows: the gradient
# takes the forward, the input and the weight product; the Hessian-vector product takes two products
# for each of the output tangent, the input cotangent's tangent and the weight gradient's tangent.
# The first layer needs no input gradient and its input has no tangent.
GRADIENT_FORWARDS, HVP_FORWARDS = 3, 6
FIRST_GRADIENT_FORWARDS, FIRST_HVP_FORWARDS = 2, 2


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the benchmark.

    Attributes:
        name: Key on the command line and in the results.
        title: Text of the table's first column.
        widths: Features of the input, every hidden layer and the output.
        loss: "mse" (sinusoid data) or "cross_entropy" (noisy class prototypes), mean over rows.
        tasks: T.
        support_rows: S.
        query_rows: Q.
        inner_steps: K.
        inner_lr: Step size of the inner loop.
        batch_norm: Whether every hidden linear layer is followed by batch norm (batch statistics,
            affine).
        bias: Whether linear layers have a bias.
        overhead: Whether it times the call, not the work; memory and arithmetic then say nothing.
        seed: Seed of parameters and data, picked so that float32 crosses few of ReLU's kinks.
        float64_tasks: Tasks of the float64 check; 0 is all of them (wide float64 runs of slow
            rivals cost minutes).
    """

    name: str
    title: str
    widths: tuple[int, ...]
    loss: LossName
    tasks: int
    support_rows: int
    query_rows: int
    inner_steps: int
    inner_lr: float
    batch_norm: bool = False
    bias: bool = True
    overhead: bool = False
    seed: int = 0
    float64_tasks: int = 0

    @property
    def check_tasks(self) -> int:
        """Tasks of the float64 check."""
        return self.float64_tasks or self.tasks

    @property
    def layers(self) -> int:
        """Number of linear layers."""
        return len(self.widths) - 1

    @property
    def necessary_flops(self) -> int:
        """FLOPs of one second-order meta-step, dense count, contractions only."""
        support, query = 0, 0
        for index, (inputs, outputs) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            gradient = FIRST_GRADIENT_FORWARDS if index == 0 else GRADIENT_FORWARDS
            hvp = FIRST_HVP_FORWARDS if index == 0 else HVP_FORWARDS
            support += (gradient + hvp) * 2 * self.support_rows * inputs * outputs
            query += gradient * 2 * self.query_rows * inputs * outputs
        return self.tasks * (self.inner_steps * support + query)


SINUSOID_1 = Workload(
    name="sinusoid-1",
    title="sinusoid MLP 1-40-40-1, 25 tasks, 10-shot, 1 step",
    widths=(1, 40, 40, 1),
    loss="mse",
    tasks=25,
    support_rows=10,
    query_rows=10,
    inner_steps=1,
    inner_lr=0.01,
)
SINUSOID_5 = Workload(
    name="sinusoid-5",
    title="sinusoid MLP 1-40-40-1, 25 tasks, 10-shot, 5 steps",
    widths=(1, 40, 40, 1),
    loss="mse",
    tasks=25,
    support_rows=10,
    query_rows=10,
    inner_steps=5,
    inner_lr=0.01,
)
OMNIGLOT = Workload(
    name="omniglot-mlp",
    title="Omniglot MLP 784-256-128-64-64-5, batch norm, 32 tasks 5-way 1-shot, 1 step",
    widths=(784, 256, 128, 64, 64, 5),
    loss="cross_entropy",
    tasks=32,
    support_rows=5,
    query_rows=5,
    inner_steps=1,
    inner_lr=0.4,
    batch_norm=True,
)
WIDE = Workload(
    name="wide-mlp",
    title="wide MLP 784-1024-1024-1024-5, 16 tasks 5-way 5-shot, 5 steps",
    widths=(784, 1024, 1024, 1024, 5),
    loss="cross_entropy",
    tasks=16,
    support_rows=25,
    query_rows=25,
    inner_steps=5,
    inner_lr=0.01,
    float64_tasks=2,
    seed=4,
)
ONE_PARAMETER = Workload(
    name="one-parameter",
    title="one parameter, one task, one row, 1 step (call overhead)",
    widths=(1, 1),
    loss="mse",
    tasks=1,
    support_rows=1,
    query_rows=1,
    inner_steps=1,
    inner_lr=0.01,
    bias=False,
    overhead=True,
)

WORKLOADS: dict[str, Workload] = {
    row.name: row for row in (SINUSOID_1, SINUSOID_5, OMNIGLOT, WIDE, ONE_PARAMETER)
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A workload with its numbers, as NumPy arrays of one dtype.

    Attributes:
        workload: The row it was made from.
        dtype: "float32" or "float64".
        parameters: Initial parameters by the names that `module` gives them, in the module's order.
        support: x [T, S, I] and y ([T, S, O] of the dtype for mse, [T, S] int64 for cross_entropy).
        query: The same with Q rows.
    """

    workload: Workload
    dtype: str
    parameters: dict[str, Array]
    support: tuple[Array, Array]
    query: tuple[Array, Array]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def module(self) -> nn.Sequential:
        """An ordinary torch module in training mode that starts from `parameters`."""
        model = architecture(self.workload).to(self.torch_dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(self.parameters[name]))
        return model

    def tensors(
        self,
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Support and query pairs as torch tensors that own their memory."""
        support, query = (
            (torch.from_numpy(x).clone(), torch.from_numpy(y).clone())
            for x, y in (self.support, self.query)
        )
        return support, query


def architecture(workload: Workload) -> nn.Sequential:
    """The workload's network with torch's default initialisation.

    Args:
        workload: The row.

    Returns:
        Linear [, BatchNorm1d], ReLU per hidden layer, then the output layer, named `linear0`,
        `norm0`, `relu0`, ...
    """
    model = nn.Sequential()
    for index, (inputs, outputs) in enumerate(
        zip(workload.widths, workload.widths[1:], strict=False)
    ):
        model.add_module(f"linear{index}", nn.Linear(inputs, outputs, bias=workload.bias))
        if index == workload.layers - 1:
            break
        if workload.batch_norm:
            model.add_module(f"norm{index}", nn.BatchNorm1d(outputs))
        model.add_module(f"relu{index}", nn.ReLU())
    return model


def make_problem(workload: Workload, dtype: str) -> Problem:
    """Parameters and data of a workload, the same for every contestant.

    Args:
        workload: The row.
        dtype: "float32" or "float64".

    Returns:
        The problem; float32 numbers are the float64 numbers rounded.

    Raises:
        ValueError: Another dtype was asked for.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f'make_problem: dtype must be "float32" or "float64", got "{dtype}".')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workload.seed)
        model = architecture(workload).double()
    rng = np.random.default_rng(workload.seed)
    make = _sinusoid if workload.loss == "mse" else _prototypes
    (support_x, support_y), (query_x, query_y) = make(workload, rng)

    def cast(values: Array) -> Array:
        # Through float32 in both dtypes: the float64 run is then the exact truth of the float32
        # run's problem.
        return values if values.dtype.kind == "i" else values.astype(np.float32).astype(dtype)

    return Problem(
        workload=workload,
        dtype=dtype,
        parameters={name: cast(p.detach().numpy()) for name, p in model.named_parameters()},
        support=(cast(support_x), cast(support_y)),
        query=(cast(query_x), cast(query_y)),
    )


def _sinusoid(
    workload: Workload, rng: np.random.Generator
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Regression tasks y = A sin(x - p) with A in [0.1, 5], p in [0, pi], x in [-5, 5]."""
    amplitude = rng.uniform(0.1, 5.0, (workload.tasks, 1, 1))
    phase = rng.uniform(0.0, np.pi, (workload.tasks, 1, 1))

    def draw(rows: int) -> tuple[Array, Array]:
        x = rng.uniform(-5.0, 5.0, (workload.tasks, rows, 1))
        return x, amplitude * np.sin(x - phase)

    return draw(workload.support_rows), draw(workload.query_rows)


def _prototypes(
    workload: Workload, rng: np.random.Generator
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Classification tasks: a class is a sparse image, a row its class's image plus noise."""
    classes = workload.widths[-1]
    size = (workload.tasks, classes, workload.widths[0])
    prototypes = (rng.random(size) < 0.15).astype(np.float64)

    def draw(rows: int) -> tuple[Array, Array]:
        y = np.broadcast_to(np.arange(rows) % classes, (workload.tasks, rows)).astype(np.int64)
        x = np.take_along_axis(prototypes, y[:, :, None], axis=1)
        return x + 0.1 * rng.standard_normal(x.shape), y

    return draw(workload.support_rows), draw(workload.query_rows)
