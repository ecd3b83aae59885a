"""The workloads, as data, and the arithmetic they need.

A workload is a network, a task shape and the settings of one meta-step. Everything a contestant
sees (layers, initial parameters, support and query rows) is made here once, in float64, from the
workload's seed, and rounded to the dtype of the run, so that all contestants solve the same
problem.

Letters: T tasks, S support rows, Q query rows, K inner steps, O outputs; a row is [features] or
[channels, height, width].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks import networks
from benchmarks.networks import Network

Array = npt.NDArray[np.generic]
LossName = Literal["mse", "cross_entropy"]

# A layer's necessary work in units of one forward contraction over the same rows: the gradient
# takes the forward, the input and the weight product; the Hessian-vector product takes two products
# for each of the output tangent, the input cotangent's tangent and the weight gradient's tangent.
# A layer that reads the network's input needs no input gradient and its input has no tangent.
GRADIENT_FORWARDS, HVP_FORWARDS = 3, 6
FIRST_GRADIENT_FORWARDS, FIRST_HVP_FORWARDS = 2, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(ABC):
    """One row of the benchmark; the subclasses say how its network is written down.

    Attributes:
        name: Key on the command line and in the results.
        title: Text of the table's first column.
        loss: "mse" (sinusoid data) or "cross_entropy" (noisy class prototypes), mean over rows.
        tasks: T.
        support_rows: S.
        query_rows: Q.
        inner_steps: K.
        inner_lr: Step size of the inner loop.
        overhead: Whether it times the call, not the work; memory and arithmetic then say nothing.
        seed: Seed of parameters and data, picked so that float32 crosses few of the network's
            kinks, torch's loop and fastmaml alike.
        float64_tasks: Tasks of the float64 check; 0 is all of them (wide float64 runs of slow
            rivals cost minutes).
        float32_limit: Largest relative error of fastmaml in float32, see `benchmarks.check`.
        seconds: Time of the interleaved rounds, unless the run names another.
    """

    name: str
    title: str
    loss: LossName
    tasks: int
    support_rows: int
    query_rows: int
    inner_steps: int
    inner_lr: float
    overhead: bool = False
    seed: int = 0
    float64_tasks: int = 0
    float32_limit: float = 1e-3
    seconds: float = 10.0

    @property
    @abstractmethod
    def network(self) -> Network:
        """The network that every contestant builds."""

    @property
    def check_tasks(self) -> int:
        """Tasks of the float64 check."""
        return self.float64_tasks or self.tasks

    @property
    def necessary_flops(self) -> int:
        """FLOPs of one second-order meta-step, dense count, contractions only."""
        support, query = 0, 0
        for forward, first in self.network.contractions():
            gradient = FIRST_GRADIENT_FORWARDS if first else GRADIENT_FORWARDS
            hvp = FIRST_HVP_FORWARDS if first else HVP_FORWARDS
            support += (gradient + hvp) * self.support_rows * forward
            query += gradient * self.query_rows * forward
        return self.tasks * (self.inner_steps * support + query)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpWorkload(Workload):
    """A multilayer perceptron.

    Attributes:
        widths: Features of the input, every hidden layer and the output.
        batch_norm: Whether every hidden linear layer is followed by batch norm (batch statistics,
            affine).
        bias: Whether linear layers have a bias.
    """

    widths: tuple[int, ...]
    batch_norm: bool = False
    bias: bool = True

    @property
    def network(self) -> Network:
        """Linear [, batch norm], ReLU per hidden layer, then the output layer."""
        return networks.mlp(self.widths, batch_norm=self.batch_norm, bias=self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWorkload(Workload):
    """Any network over images."""

    architecture: Network

    @property
    def network(self) -> Network:
        """The architecture."""
        return self.architecture


SINUSOID_1 = MlpWorkload(
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
SINUSOID_5 = MlpWorkload(
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
OMNIGLOT = MlpWorkload(
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
WIDE = MlpWorkload(
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
ONE_PARAMETER = MlpWorkload(
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

OMNIGLOT_CONV = ImageWorkload(
    name="omniglot-conv",
    title="Omniglot Conv4-64 stride 2, 28x28, 32 tasks 5-way 1-shot, 1 step",
    architecture=networks.omniglot_conv(5),
    loss="cross_entropy",
    tasks=32,
    support_rows=5,
    query_rows=5,
    inner_steps=1,
    inner_lr=0.4,
    float64_tasks=2,
    seconds=30.0,
)
OMNIGLOT_CONV_20 = ImageWorkload(
    name="omniglot-conv-20",
    title="Omniglot Conv4-64 stride 2, 28x28, 16 tasks 20-way 1-shot, 5 steps",
    architecture=networks.omniglot_conv(20),
    loss="cross_entropy",
    tasks=16,
    support_rows=20,
    query_rows=20,
    inner_steps=5,
    inner_lr=0.1,
    float64_tasks=2,
    seed=2,
    float32_limit=0.01,
    seconds=60.0,
)
MINI_CONV = ImageWorkload(
    name="mini-conv",
    title="miniImageNet Conv4-32, 84x84, 4 tasks 5-way 1-shot, 75 query rows, 5 steps",
    architecture=networks.conv4(5),
    loss="cross_entropy",
    tasks=4,
    support_rows=5,
    query_rows=75,
    inner_steps=5,
    inner_lr=0.01,
    float64_tasks=1,
    seed=1,
    float32_limit=0.01,
    seconds=90.0,
)
RESNET12 = ImageWorkload(
    name="resnet12",
    title="ResNet-12 64-160-320-640, 84x84, 1 task 5-way 1-shot, 15 query rows, 2 steps",
    architecture=networks.resnet12(5),
    loss="cross_entropy",
    tasks=1,
    support_rows=5,
    query_rows=15,
    inner_steps=2,
    inner_lr=0.01,
    float32_limit=0.45,
    seconds=300.0,
)

WORKLOADS: dict[str, Workload] = {
    row.name: row
    for row in (
        SINUSOID_1,
        SINUSOID_5,
        OMNIGLOT,
        WIDE,
        OMNIGLOT_CONV,
        OMNIGLOT_CONV_20,
        MINI_CONV,
        RESNET12,
        ONE_PARAMETER,
    )
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A workload with its numbers, as NumPy arrays of one dtype.

    Attributes:
        workload: The row it was made from.
        dtype: "float32" or "float64".
        parameters: Initial parameters by the names that `module` gives them, in the module's order.
        support: x [T, S, *row] and y ([T, S, O] of the dtype for mse, [T, S] int64 for
            cross_entropy).
        query: The same with Q rows.
        device: Where torch's module and tensors lie.
    """

    workload: Workload
    dtype: str
    parameters: dict[str, Array]
    support: tuple[Array, Array]
    query: tuple[Array, Array]
    device: str = "cpu"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def module(self) -> nn.Sequential:
        """An ordinary torch module in training mode that starts from `parameters`."""
        model = self.workload.network.module().to(self.torch_dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(self.parameters[name]))
        return model.to(self.device)

    def tensors(
        self,
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Support and query pairs as torch tensors that own their memory."""
        support, query = (
            (
                torch.from_numpy(x).clone().to(self.device),
                torch.from_numpy(y).clone().to(self.device),
            )
            for x, y in (self.support, self.query)
        )
        return support, query


def make_problem(workload: Workload, dtype: str, device: str = "cpu") -> Problem:
    """Parameters and data of a workload, the same for every contestant.

    Args:
        workload: The row.
        dtype: "float32" or "float64".
        device: Where torch's module and tensors are to lie.

    Returns:
        The problem; float32 numbers are the float64 numbers rounded.

    Raises:
        ValueError: Another dtype was asked for.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f'make_problem: dtype must be "float32" or "float64", got "{dtype}".')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workload.seed)
        model = workload.network.module().double()
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
        device=device,
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


# Side of the squares that an image's prototype consists of: strokes that a convolution can see.
SQUARE = 4


def _prototypes(
    workload: Workload, rng: np.random.Generator
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Classification tasks: a class is a sparse pattern, a row its class's pattern plus noise."""
    network = workload.network
    classes, row = network.outputs, network.row
    coarse = tuple(-(-side // SQUARE) if axis else side for axis, side in enumerate(row))
    patterns = (rng.random((workload.tasks, classes, *coarse)) < 0.15).astype(np.float64)
    for axis, side in enumerate(row[1:], start=3):
        patterns = patterns.repeat(SQUARE, axis=axis).take(range(side), axis=axis)
    each = np.arange(workload.tasks)[:, None]

    def draw(rows: int) -> tuple[Array, Array]:
        y = np.broadcast_to(np.arange(rows) % classes, (workload.tasks, rows)).astype(np.int64)
        x = patterns[each, y]
        return x + 0.1 * rng.standard_normal(x.shape), y

    return draw(workload.support_rows), draw(workload.query_rows)
