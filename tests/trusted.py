"""A small network, its data, and its gradients by a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fastmaml

X = torch.randn(3, 6, 4, dtype=torch.float64)
Y = torch.arange(6).remainder(3).repeat(3, 1)
DATA = X, Y
quiet = pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def grads(model: nn.Module, step: Callable[..., Any] = fastmaml.meta_step, **how: Any) -> Any:
    model.zero_grad()
    result = step(model, DATA, DATA, **how)
    return result, [None if p.grad is None else p.grad.clone() for p in model.parameters()]
