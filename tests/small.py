"""Small float64 tasks and a small network, for the tests of the reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

T, S, Q = 3, 4, 5


def regression(outputs: int = 1, features: int = 2) -> tuple[Any, Any]:
    return (
        (torch.randn(T, S, features), torch.randn(T, S, outputs)),
        (torch.randn(T, Q, features), torch.randn(T, Q, outputs)),
    )


def classification(classes: int = 3, features: int = 2) -> tuple[Any, Any]:
    return (
        (torch.randn(T, S, features), torch.randint(classes, (T, S))),
        (torch.randn(T, Q, features), torch.randint(classes, (T, Q))),
    )


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 3)
    )


def gradients(model: nn.Module) -> list[Tensor]:
    """Copies of what is in ``.grad``, flat."""
    found = [parameter.grad for parameter in model.parameters()]
    return [grad.flatten().clone() for grad in found if grad is not None]
