"""What the ops are tested on: one OpCase for each op and variant, and every loss.

Adding an op to the engine means adding its cases here; test_ops.py fails until they are there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from op_case import HIDDEN, INPUTS, OUTPUTS, OpCase, frozen, norm
from op_cases_image import IMAGE_CASES
from torch import Tensor, nn

from fastmaml import losses


class Net(nn.Module):
    """linear -> the op under test -> linear."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, HIDDEN)
        self.last = nn.Linear(HIDDEN, OUTPUTS)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.op(self.first(x)))


class Residual(nn.Module):
    """Sums of two layers, of a layer and what nothing trains, and of a layer and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, INPUTS)
        self.second = nn.Linear(INPUTS, INPUTS)
        self.last = nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x)) + x
        h = h + torch.sigmoid(self.second(h))
        return self.last(x + (h + h))


class Shared(nn.Module):
    """One layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, INPUTS)
        self.last = nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class Rows(nn.Module):
    """A linear layer over the last of two dimensions, between two reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 6)
        self.middle = nn.Linear(3, 4)
        self.last = nn.Linear(8, OUTPUTS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x)).view(x.size(0), 2, 3)
        return self.last(F.silu(self.middle(h)).flatten(1))


class Centred(nn.Module):
    """Batch norm behind a linear layer of the data, which a second layer may read too."""

    def __init__(self, layer: nn.Module, *, beside: bool = False) -> None:
        super().__init__()
        self.layer, self.norm = layer, batch_norm()
        self.beside = nn.Linear(INPUTS, HIDDEN) if beside else None
        self.last = nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.layer(x)))
        return self.last(h if self.beside is None else h + self.beside(x))


def batch_norm(
    features: int = HIDDEN, freeze: str = "", *, training: bool = True, affine: bool = True
) -> nn.Module:
    return norm(nn.BatchNorm1d, features, freeze=freeze, training=training, affine=affine)


def pointwise(op: str, variant: str, function: Callable[[Tensor], Tensor]) -> OpCase:
    return OpCase(op, variant, lambda: Net(function))


CASES = [
    OpCase("linear", "bias", lambda: nn.Linear(INPUTS, OUTPUTS)),
    OpCase("linear", "no bias", lambda: nn.Linear(INPUTS, OUTPUTS, bias=False)),
    OpCase("linear", "twice", Shared),
    OpCase("linear", "frozen first", lambda: frozen(Net(torch.tanh), "first.weight", "first.bias")),
    OpCase("linear", "frozen last", lambda: frozen(Net(torch.tanh), "last.weight")),
    OpCase("add", "residual", Residual),
    OpCase("reshape", "rows", Rows),
    OpCase("batch_norm", "batch", lambda: Net(batch_norm())),
    OpCase("batch_norm", "batch, plain", lambda: Net(batch_norm(affine=False))),
    OpCase("batch_norm", "batch, weight only", lambda: Net(batch_norm(freeze="bias"))),
    OpCase("batch_norm", "batch, bias only", lambda: Net(batch_norm(freeze="weight"))),
    OpCase(
        "batch_norm",
        "batch of data",
        lambda: nn.Sequential(batch_norm(INPUTS), nn.Tanh(), nn.Linear(INPUTS, OUTPUTS)),
    ),
    OpCase("batch_norm", "running", lambda: Net(batch_norm(training=False))),
    OpCase("batch_norm", "running, plain", lambda: Net(batch_norm(training=False, affine=False))),
    OpCase(
        "batch_norm",
        "running of data",
        lambda: nn.Sequential(
            batch_norm(INPUTS, training=False), nn.Tanh(), nn.Linear(INPUTS, OUTPUTS)
        ),
    ),
    OpCase("centre", "", lambda: Centred(nn.Linear(INPUTS, HIDDEN))),
    OpCase("centre", "no bias", lambda: Centred(nn.Linear(INPUTS, HIDDEN, bias=False))),
    OpCase("centre", "frozen", lambda: Centred(frozen(nn.Linear(INPUTS, HIDDEN), "weight"))),
    OpCase("centre", "two readers", lambda: Centred(nn.Linear(INPUTS, HIDDEN), beside=True)),
    pointwise("relu", "", torch.relu),
    pointwise("leaky_relu", "", F.leaky_relu),
    pointwise("leaky_relu", "steep", lambda x: F.leaky_relu(x, 0.3)),
    pointwise("elu", "", F.elu),
    pointwise("elu", "alpha", lambda x: F.elu(x, 1.7)),
    pointwise("gelu", "erf", F.gelu),
    pointwise("gelu", "tanh", lambda x: F.gelu(x, approximate="tanh")),
    pointwise("silu", "", F.silu),
    pointwise("softplus", "", F.softplus),
    pointwise("softplus", "beta", lambda x: F.softplus(x, 3.0, 2.0)),
    pointwise("tanh", "", torch.tanh),
    pointwise("sigmoid", "", torch.sigmoid),
    *IMAGE_CASES,
]
LOSSES = [
    nn.MSELoss(),
    nn.MSELoss(reduction="sum"),
    nn.BCEWithLogitsLoss(),
    nn.BCEWithLogitsLoss(reduction="sum"),
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(reduction="sum"),
    nn.CrossEntropyLoss(label_smoothing=0.2),
    nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum"),
]
PASSES = {  # which passes of the op a meta-step adds to those above it
    "forward, backward": {"inner_steps": 0},
    "backward on the support set": {"inner_steps": 1, "first_order": True},
    "forward_jvp, backward_jvp": {"inner_steps": 1},
    "all, later steps": {"inner_steps": 2},
}


def case_id(case: OpCase) -> str:
    return f"{case.op} {case.variant}".strip()


def loss_id(loss: nn.Module) -> str:
    smoothing = " smooth" if getattr(loss, "label_smoothing", 0) else ""
    return f"{losses.resolve(loss).name} {loss.reduction}{smoothing}"
