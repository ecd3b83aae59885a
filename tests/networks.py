"""Random multilayer perceptrons: layers, widths, activations, norms, residuals, shared layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
SMOOTH = ["gelu", "silu", "softplus", "tanh", "sigmoid"]
WIDTHS = [1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 40, 64, 97, 128, 151, 251, 300]


@dataclass(frozen=True)
class Workload:
    """One random meta-step."""

    inputs: int
    widths: tuple[int, ...]
    outputs: int
    activation: str
    norm: Literal["none", "rows", "running"]  # batch norm with the rows' or running statistics
    residual: bool
    shared: bool
    bias: bool
    loss: str
    reduction: str
    tasks: int
    support_rows: int
    query_rows: int
    inner_steps: int
    first_order: bool
    seed: int

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return RandomNet(self).train(self.norm != "running")

    def data(self, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
        """Drawn in float64, so that both dtypes see the same numbers."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(rows: int) -> tuple[Tensor, Tensor]:
            options = {"generator": generator, "dtype": torch.float64}
            x = torch.randn(self.tasks, rows, self.inputs, **options)
            if self.loss == "cross_entropy":
                return x.to(dtype), torch.randint(
                    self.outputs, (self.tasks, rows), generator=generator
                )
            y = torch.rand(self.tasks, rows, self.outputs, **options)
            return x.to(dtype), y.to(dtype)

        return draw(self.support_rows), draw(self.query_rows)

    def settings(self) -> dict[str, Any]:
        kinds = {
            "mse": nn.MSELoss,
            "cross_entropy": nn.CrossEntropyLoss,
            "bce_with_logits": nn.BCEWithLogitsLoss,
        }
        # A sum over rows is as large as they are many; the step stays the same.
        rate = 0.05 if self.reduction == "mean" else 0.05 / (self.support_rows * self.outputs)
        return {
            "loss": kinds[self.loss](reduction=self.reduction),
            "inner_lr": rate,
            "inner_steps": self.inner_steps,
            "first_order": self.first_order,
        }


class RandomNet(nn.Module):
    """Linear layers with norm and activation; residual and shared layers keep the width."""

    def __init__(self, load: Workload) -> None:
        super().__init__()
        sizes = [load.inputs, *load.widths]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=load.bias) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(
            nn.Identity() if load.norm == "none" else nn.BatchNorm1d(width, affine=i % 2 == 0)
            for i, width in enumerate(load.widths)
        )
        for name, buffer in self.norms.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
        self.act = ACTIVATIONS[load.activation]()
        self.square = nn.Linear(sizes[-1], sizes[-1]) if load.shared or load.residual else None
        self.residual, self.shared = load.residual, load.shared
        self.head = nn.Linear(sizes[-1], load.outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        if self.square is not None:
            y = self.act(self.square(x))
            if self.shared:
                y = torch.tanh(self.square(y))
            x = x + y if self.residual else y
        return self.head(x)


@st.composite
def workloads(draw: st.DrawFn, *, smooth: bool = False) -> Workload:
    """Any of them, with K in 0, 1, 2, 5, both orders, 1 to 40 tasks and 1 to 33 rows."""
    norm = draw(st.sampled_from(["none", "rows", "running", "rows"]))
    rows = st.integers(2 if norm == "rows" else 1, 33)
    return Workload(
        inputs=draw(st.sampled_from(WIDTHS)),
        widths=tuple(draw(st.lists(st.sampled_from(WIDTHS), min_size=0, max_size=4))),
        outputs=draw(st.sampled_from([1, 2, 3, 5, 8, 17])),
        activation=draw(st.sampled_from(SMOOTH if smooth else list(ACTIVATIONS))),
        norm=norm,
        residual=draw(st.booleans()),
        shared=draw(st.booleans()),
        bias=draw(st.booleans()),
        loss=draw(st.sampled_from(["mse", "cross_entropy", "bce_with_logits"])),
        reduction=draw(st.sampled_from(["mean", "mean", "sum"])),
        tasks=draw(st.integers(1, 40)),
        support_rows=draw(rows),
        query_rows=draw(rows),
        inner_steps=draw(st.sampled_from([0, 1, 2, 5])),
        first_order=draw(st.sampled_from([False, False, True])),
        seed=draw(st.integers(0, 2**16)),
    )
