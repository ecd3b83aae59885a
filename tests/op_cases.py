"""What the ops are tested on: one OpCase for each op and variant, and every loss.

Beside the cases: torch's forms of the ops, for the tests of the tracer, and what the ops mean, in
plain torch. Adding an op to the engine means adding all three here, or where those over images and
the norms have theirs; tests fail until they are there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from op_case import HIDDEN, INPUTS, OUTPUTS, Meaning, OpCase, frozen, norm
from op_cases_image import IMAGE_CASES, IMAGE_MEANINGS
from op_cases_norms import NORM_CASES, NORM_MEANINGS
from torch import Tensor, nn

from fastmaml import losses
from fastmaml.tracing.network import Node


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
    *NORM_CASES,
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


# --- torch's forms --------------------------------------------------------------------------------


MODULE_FORMS: dict[type[nn.Module], list[Callable[[], nn.Module]]] = {
    nn.Linear: [lambda: nn.Linear(3, 2), lambda: nn.Linear(3, 2, bias=False)],
    nn.BatchNorm1d: [
        lambda: nn.BatchNorm1d(3, eps=1e-3),
        lambda: nn.BatchNorm1d(3, affine=False),
        lambda: nn.BatchNorm1d(3, track_running_stats=False),
        lambda: nn.BatchNorm1d(3, track_running_stats=False).eval(),
        lambda: nn.BatchNorm1d(3).eval(),
        lambda: nn.BatchNorm1d(3, affine=False).eval(),
    ],
    nn.ReLU: [nn.ReLU, lambda: nn.ReLU(inplace=True)],
    nn.LeakyReLU: [nn.LeakyReLU, lambda: nn.LeakyReLU(0.3, inplace=True)],
    nn.ELU: [nn.ELU, lambda: nn.ELU(0.7, inplace=True)],
    nn.GELU: [nn.GELU, lambda: nn.GELU("tanh")],
    nn.SiLU: [nn.SiLU, lambda: nn.SiLU(inplace=True)],
    nn.Softplus: [nn.Softplus, lambda: nn.Softplus(2.0, 0.5)],
    nn.Tanh: [nn.Tanh],
    nn.Sigmoid: [nn.Sigmoid],
    nn.Flatten: [nn.Flatten, lambda: nn.Flatten(-1), lambda: nn.Flatten(1, 1)],
    nn.Unflatten: [lambda: nn.Unflatten(1, (3, 1)), lambda: nn.Unflatten(-1, (1, -1))],
    nn.Identity: [nn.Identity],
    nn.Dropout: [lambda: nn.Dropout(0.0), lambda: nn.Dropout(0.5).eval()],
    nn.AlphaDropout: [lambda: nn.AlphaDropout(0.5).eval()],
}

FUNCTION_FORMS: dict[Any, list[Callable[[Tensor], Tensor]]] = {
    F.relu: [F.relu, lambda x: F.relu(x, inplace=True), lambda x: F.relu(input=x)],
    F.leaky_relu: [F.leaky_relu, lambda x: F.leaky_relu(x, 0.2, True)],
    F.leaky_relu_: [lambda x: F.leaky_relu_(x, 0.2)],
    F.elu: [F.elu, lambda x: F.elu(x, alpha=0.5)],
    F.elu_: [F.elu_],
    F.gelu: [F.gelu, lambda x: F.gelu(x, approximate="tanh")],
    F.silu: [F.silu, lambda x: F.silu(x, inplace=True)],
    F.softplus: [
        F.softplus,
        lambda x: F.softplus(x, beta=2, threshold=1),
        lambda x: F.softplus(x + x, 3, 0.1),
    ],
    F.tanh: [F.tanh],
    F.sigmoid: [F.sigmoid],
    F.dropout: [lambda x: F.dropout(x, 0.5, False), lambda x: F.dropout(x, p=0.0)],
    F.alpha_dropout: [lambda x: F.alpha_dropout(x, 0.5)],
    torch.relu: [torch.relu],
    torch.relu_: [torch.relu_],
    torch.tanh: [torch.tanh],
    torch.tanh_: [torch.tanh_],
    torch.sigmoid: [torch.sigmoid],
    torch.sigmoid_: [torch.sigmoid_],
    torch.special.expit: [torch.special.expit],
    torch.dropout: [lambda x: torch.dropout(x, 0.5, False)],
    torch.add: [lambda x: torch.add(x, x), lambda x: torch.add(x, x, alpha=1)],
    torch.reshape: [lambda x: torch.reshape(x, (-1, 12)), lambda x: torch.reshape(x, (-1, 3, 4))],
    torch.flatten: [lambda x: torch.flatten(x, 1), lambda x: torch.flatten(x, start_dim=-2)],
    torch.unflatten: [
        lambda x: torch.unflatten(x, 1, (2, 2)),
        lambda x: torch.unflatten(x, 2, [3]),
    ],
    torch.squeeze: [lambda x: torch.squeeze(x, 1), lambda x: torch.squeeze(x.unsqueeze(1), 1)],
    torch.unsqueeze: [lambda x: torch.unsqueeze(x, 1), lambda x: torch.unsqueeze(x, -1)],
}

METHOD_FORMS: dict[str, list[Callable[[Any], Tensor]]] = {
    "relu": [lambda x: x.relu()],
    "relu_": [lambda x: x.relu_()],
    "tanh": [lambda x: x.tanh()],
    "tanh_": [lambda x: x.tanh_()],
    "sigmoid": [lambda x: x.sigmoid()],
    "sigmoid_": [lambda x: x.sigmoid_()],
    "add": [
        lambda x: x.add(x),
        lambda x: x.add(x, alpha=1),
        lambda x: x + x,
        lambda x: operator.add(x, torch.tanh(x)),
    ],
    "add_": [lambda x: x.add_(x), lambda x: operator.iadd(x, x)],
    "view": [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.shape[0], 12),
        lambda x: x.view(x.size(0), -1, 6),
        lambda x: x.view(-1, x.shape[1] * x.shape[2]),
        lambda x: x.view((x.size()[0], 2, 6)),
        lambda x: x.view(x.shape),
        lambda x: x.view(size=(x.shape[0], 12)),
    ],
    "reshape": [
        lambda x: x.reshape(x.size(dim=0), -1),
        lambda x: x.reshape(-1, 12),
        lambda x: x.reshape([x.size(0), 12]),
    ],
    "flatten": [lambda x: x.flatten(1), lambda x: x.flatten(start_dim=1, end_dim=x.dim() - 1)],
    "unflatten": [lambda x: x.unflatten(1, (2, 2))],
    "squeeze": [lambda x: x.squeeze(1)],
    "unsqueeze": [lambda x: x.unsqueeze(2) if x.ndim == 3 else x],
    "contiguous": [lambda x: x.contiguous()],
    "clone": [lambda x: x.clone(), lambda x: x + x.clone().relu_()],
    "to": [
        lambda x: x.to(x.device),
        lambda x: x.to(x),
        lambda x: x.to(device=x.device, dtype=x.dtype),
    ],
}


# --- what the ops mean ----------------------------------------------------------------------------


def linear(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    weight, bias = p
    assert weight is not None
    return x[0] @ weight.mT if bias is None else x[0] @ weight.mT + bias


MEANINGS: dict[str, Meaning] = {
    "linear": linear,
    "relu": lambda n, x, p: x[0].clamp_min(0),
    "leaky_relu": lambda n, x, p: F.leaky_relu(x[0], n.attrs["negative_slope"]),
    "elu": lambda n, x, p: F.elu(x[0], n.attrs["alpha"]),
    "gelu": lambda n, x, p: F.gelu(x[0], approximate="tanh" if n.attrs["tanh"] else "none"),
    "silu": lambda n, x, p: x[0] * torch.sigmoid(x[0]),
    "softplus": lambda n, x, p: F.softplus(x[0], n.attrs["beta"], n.attrs["threshold"]),
    "tanh": lambda n, x, p: torch.tanh(x[0]),
    "sigmoid": lambda n, x, p: torch.sigmoid(x[0]),
    "reshape": lambda n, x, p: x[0].reshape(len(x[0]), *n.shape),
    "add": lambda n, x, p: x[0] + x[1],
    **IMAGE_MEANINGS,
    **NORM_MEANINGS,
}
