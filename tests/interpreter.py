"""A traced network run in plain torch, and compared with the model that it came from."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import MEANINGS
from tolerances import assert_close
from torch import Tensor, nn

from fastmaml.tracing.trace import Network, trace

ROWS = 5


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
        values.append(MEANINGS[node.op](node, inputs, params))
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
