"""A traced network run in plain torch, and compared with the model that it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn

from fastmaml.tracing.trace import Network, Node, trace

ROWS = 5


def linear(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    weight, bias = p
    assert weight is not None
    return x[0] @ weight.mT if bias is None else x[0] @ weight.mT + bias


def batch_norm(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    weight, bias, mean, var = p
    if node.attrs["batch_stats"]:
        assert mean is None
        assert var is None
        dims = (0, *range(2, x[0].dim()))
        mean, var = x[0].mean(dims), x[0].var(dims, unbiased=False)
    assert mean is not None
    assert var is not None
    mean, var, weight, bias = (
        None if t is None else t.reshape(-1, *(1,) * (x[0].dim() - 2))
        for t in (mean, var, weight, bias)
    )
    y = (x[0] - mean) / (var + node.attrs["eps"]).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def pair(node: Node, name: str) -> tuple[int, int]:
    return int(node.attrs[f"{name}_h"]), int(node.attrs[f"{name}_w"])


def conv2d(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    """Padded at both ends by what comes before the image, one more after it, and cut to size."""
    weight, bias = p
    high, wide = pair(node, "pad")
    y = F.conv2d(
        F.pad(x[0], (wide, wide + 1, high, high + 1)),
        weight,
        bias,
        pair(node, "stride"),
        0,
        pair(node, "dilation"),
        int(node.attrs["groups"]),
    )
    return y[:, :, : node.shape[1], : node.shape[2]]


def pool2d(node: Node, x: Tensor, **options: Any) -> Tensor:
    function = F.max_pool2d if node.op == "max_pool2d" else F.avg_pool2d
    windows = [pair(node, name) for name in ("kernel", "stride", "pad")]
    results = [function(x, *windows, ceil_mode=ceil, **options) for ceil in (False, True)]
    return next(y for y in results if y.shape[1:] == node.shape)


INTERPRETER: dict[str, Callable[[Node, list[Tensor], list[Tensor | None]], Tensor]] = {
    "linear": linear,
    "batch_norm": batch_norm,
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
    "concat": lambda n, x, p: torch.cat(x, 1),
    "group_norm": lambda n, x, p: F.group_norm(x[0], int(n.attrs["groups"]), *p, n.attrs["eps"]),
    "layer_norm": lambda n, x, p: F.layer_norm(
        x[0], n.shape[-int(n.attrs["dims"]) :], *p, n.attrs["eps"]
    ),
    "conv2d": conv2d,
    "max_pool2d": lambda n, x, p: pool2d(n, x[0], dilation=pair(n, "dilation")),
    "avg_pool2d": lambda n, x, p: pool2d(
        n,
        x[0],
        count_include_pad=bool(n.attrs["count_include_pad"]),
        divisor_override=int(n.attrs["divisor"]) or None,
    ),
    "adaptive_avg_pool2d": lambda n, x, p: F.adaptive_avg_pool2d(x[0], n.shape[1:]),
}


def interpret(network: Network, model: nn.Module, x: Tensor) -> Tensor:
    """Run a network in plain torch."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for spec in network.tensors:
        assert tensors[spec.name].shape == spec.shape
        assert spec.adapted == spec.trained == tensors[spec.name].requires_grad
    values = [x]
    for node in network.nodes:
        params = [None if i < 0 else tensors[network.tensors[i].name] for i in node.params]
        inputs = [values[i] for i in node.inputs]
        values.append(INTERPRETER[node.op](node, inputs, params))
        assert values[-1].shape == (len(x), *node.shape)
    return values[network.output]


class Model(nn.Module):
    """Two layers around any function of the features."""

    def __init__(self, function: Any, row: tuple[int, ...] = (4, 3)) -> None:
        super().__init__()
        self.first = nn.Linear(row[-1], row[-1])
        self.function = function
        self.scale = nn.Parameter(torch.rand(row[-1], dtype=torch.float64) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(self.first(x))
        return result


def check(model: nn.Module, row_shape: tuple[int, ...]) -> Network:
    """Trace, compare with the model, and give the network."""
    model.double()
    x = torch.randn(ROWS, *row_shape, dtype=torch.float64)
    network = trace(model, row_shape)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        truth = model(x.clone())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    assert_close(interpret(network, model, x), truth, "op_f64")
    return network


def wide(x: Tensor) -> Tensor:
    return 40 * x  # reaches the linear part of softplus
