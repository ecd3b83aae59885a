"""Models and data of the other tests on a device, and their answers back on the host."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from small import gradients
from test_ops import Answer, Pairs, answer
from torch import Tensor, nn

import fastmaml
from fastmaml import reference
from fastmaml.engine import binding
from fastmaml.engine.core import CORE


def absence() -> str:
    """Why no CUDA device can be used by torch or by the engine, or ""."""
    if not torch.cuda.is_available():
        return "torch sees none"
    return "the engine is not built" if not binding.available() else CORE.device_absence()


class Place(NamedTuple):
    """Where calls run."""

    device: torch.device

    def examples(self, count: int) -> int:
        """How many examples to draw: fibers take seconds for one."""
        return count if self.device.type == "cuda" else 3

    def put(self, pairs: Any) -> Any:
        return tuple(tuple(tensor.to(self.device) for tensor in pair) for pair in pairs)

    def answer(
        self, model: nn.Module, tasks: Pairs, dtype: torch.dtype, **settings: object
    ) -> Answer:
        """The engine's answer there; the model ends on the host."""
        found = answer(model.to(self.device), self.put(tasks), dtype, fused=True, **settings)
        model.cpu()
        return Answer(*(tensor.cpu() for tensor in found))

    def step(
        self, model: nn.Module, data: Any, **settings: Any
    ) -> tuple[fastmaml.MetaStepResult, Tensor]:
        """A meta-step of a copy of the model: the result, and the meta-gradient on the host."""
        net = deepcopy(model).to(self.device)
        result = fastmaml.meta_step(net, *self.put(data), backend="fused", **settings)
        return result, torch.cat(gradients(net)).cpu()


def truth(model: nn.Module, data: Any, **settings: Any) -> Tensor:
    """The reference's meta-gradient, on the host."""
    net = deepcopy(model)
    reference.meta_step(net, *data, **settings)
    return torch.cat(gradients(net))
