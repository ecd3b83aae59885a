"""What an OpCase is, and the layers that its models are put together from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from fastmaml.tracing.network import Node

INPUTS, HIDDEN, OUTPUTS = 3, 19, 2


Meaning: TypeAlias = Callable[[Node, list[Tensor], list[Tensor | None]], Tensor]
"""What a node of a network gives, in plain torch, from its inputs and parameters."""


class OpCase(NamedTuple):
    op: str  # name in the engine, or "reshape"
    variant: str
    model: Callable[[], nn.Module]


class Function(nn.Module):
    """A torch function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def frozen(module: nn.Module, *names: str) -> nn.Module:
    for name in names:
        module.get_parameter(name).requires_grad_(False)
    return module


def norm(
    kind: type[nn.Module], *sizes: object, freeze: str = "", training: bool = True, **options: bool
) -> nn.Module:
    """A layer whose parameters and running statistics are unlike those it starts with."""
    layer = kind(*sizes, **options)
    with torch.no_grad():
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if name != "num_batches_tracked":
                tensor.uniform_(0.5, 1.5)
    return frozen(layer, *freeze.split()).train(training)
