"""Tracing: what is derived otherwise than it is computed, and what a refusal leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_graph_refusals import BLOCK, inside, refused
from tolerances import assert_close
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from trusted import quiet

import fastmaml


def test_plain_tensors_for_parameters() -> None:
    """As within `torch.func.functional_call`; there the reference runs."""

    class Meta(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return fastmaml.meta_loss(self.net, (x, y), (x, y), loss="mse")

    model, data = Meta().double(), (torch.randn(2, 4, 3).double(), torch.randn(2, 4, 2).double())
    given = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    with pytest.warns(UserWarning, match="whose parameters are plain tensors, as functional_call"):
        torch.func.functional_call(model, given, data).backward()
    model(*data).backward()
    for name, p in model.named_parameters():
        assert_close(given[name].grad, p.grad, "meta_f64")


def test_frozen_plain_tensors_are_as_good_as_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1]._parameters["weight"] = torch.ones(4)  # type: ignore[assignment]
    data = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    assert fastmaml.meta_step(model, data, data, loss="mse").backend == "fused"
    model[1]._parameters["weight"] = torch.ones(4, 1)  # type: ignore[assignment]
    with pytest.raises(fastmaml.ShapeError, match="layer `1`"):
        fastmaml.meta_step(model, data, data, loss="mse")


# --- gradients that are not those of the operations -----------------------------------------------


class Enabled(torch.autograd.Function):
    """Its operations would be recorded, but it has a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Tensor:
        return -bar


class Marked(Enabled):
    """Gives back what it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x


class Outside(Enabled):
    """Leaves inference mode, which records as `enable_grad` does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return torch.tanh(x)


def _hooked(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    assert y.grad_fn is not None
    y.grad_fn.register_hook(lambda of, bar: tuple(-g for g in of))
    return y


def _halved(x: Tensor) -> Tensor:
    with saved_tensors_hooks(lambda tensor: tensor / 2, lambda tensor: tensor):
        return torch.tanh(x)


def _saved(x: Tensor) -> Tensor:
    with save_on_cpu():
        return torch.tanh(x)


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))  # type: ignore[no-any-return]


@quiet
@pytest.mark.parametrize(
    "function",
    [Enabled.apply, Marked.apply, Outside.apply, _hooked, _halved, _saved],
    ids=["enabled", "marked", "outside", "hook", "halved", "saved"],
)
def test_gradients_of_the_models_own(function: Callable[[Tensor], Tensor]) -> None:
    model = Between(function).double()
    x, y = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 2).double()
    settings: dict[str, Any] = {"loss": "mse", "inner_steps": 0}
    with pytest.raises(fastmaml.UnsupportedModelError):
        fastmaml.meta_step(model, (x, y), (x, y), **settings, backend="fused")
    fastmaml.meta_step(model, (x, y), (x, y), **settings)
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    nn.functional.mse_loss(model(x.flatten(0, 1)), y.flatten(0, 1)).backward()
    for one, parameter in zip(got, model.parameters(), strict=True):
        assert_close(one, parameter.grad, "meta_f64")


# --- what a refusal leaves behind -----------------------------------------------------------------

KEPT: dict[int, Tensor] = {}


def _keeps(x: Tensor) -> Tensor:
    y = torch.sin(x)  # refused: what comes next must not happen
    if 3 not in KEPT:
        KEPT[3] = torch.ones_like(y[:1])
    return y * KEPT[3]


def test_a_refusal_ends_the_forward() -> None:
    refused(inside(_keeps), f"torch.sin in {BLOCK}")
    assert not KEPT, "or tensors without memory would be in the user's own containers"


def test_a_model_that_catches_refusals_is_refused_all_the_same() -> None:
    def form(x: Tensor) -> Tensor:
        try:
            return torch.selu(x)
        except Exception:
            return torch.relu(x)

    refused(inside(form), f"torch.selu in {BLOCK}")
