"""Tracing: a refusal names every reason, and goes on for them without doing any harm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_graph_refusals import BLOCK, Block, inside, refused
from torch import Tensor, nn

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
        assert torch.allclose(given[name].grad, p.grad, rtol=1e-12, atol=0)


def test_further_reasons_are_named() -> None:
    def form(x: Tensor) -> Tensor:
        y = F.relu(F.selu(x)) * 2
        return F.softmax(F.selu(y), -1)

    refused(
        inside(form),
        f"torch.nn.functional.selu in {BLOCK}; and torch.Tensor.mul in {BLOCK}; and "
        f"torch.nn.functional.softmax in {BLOCK}",
    )
    deep = nn.Sequential(nn.Softmax(-1), nn.Linear(3, 3), nn.Dropout(), nn.SELU(), nn.Softsign())
    refused(
        deep,
        "layer `0` (torch.nn.Softmax); and layer `2` (torch.nn.Dropout), which drops at random in "
        "training mode; and layer `3` (torch.nn.SELU); and others",
    )


def test_what_comes_of_a_refusal_is_no_reason() -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight.T) + self.weight.sum(1)

    name = f"model ({__name__}.{Made.__qualname__})"
    refused(
        Made(), f"torch.Tensor.T of `weight` in {name}; and torch.Tensor.sum of `weight` in {name}"
    )
    refused(inside(lambda x: F.relu(x.sum(0))), f"torch.Tensor.sum in {BLOCK}")
    refused(
        inside(lambda x: F.relu(x.softmax(-1).sum().item())),
        f"torch.Tensor.softmax in {BLOCK}; and torch.Tensor.sum in {BLOCK}",
    )


def test_going_on_draws_no_numbers_and_ends() -> None:
    def draws(x: Tensor) -> Tensor:
        return torch.selu(x) + torch.rand(3)

    def long(x: Tensor) -> Tensor:
        for i in range(100_000):
            calls.append(i)
            x = torch.sin(x)
        return x

    calls: list[int] = []
    state = torch.random.get_rng_state()
    refused(inside(draws), f"torch.selu in {BLOCK}; and torch.rand in {BLOCK}")
    assert torch.equal(torch.random.get_rng_state(), state)
    layers = nn.Sequential(Block(torch.sin), Block(long))
    names = [f"torch.sin in layer `{i}` ({Block.__module__}.Block)" for i in range(2)]
    refused(layers, "; and ".join(names))
    assert len(calls) < 2000


def test_a_model_that_catches_refusals_is_refused_all_the_same() -> None:
    def form(x: Tensor) -> Tensor:
        try:
            return torch.selu(x).item() * x
        except Exception:
            return F.relu(x)

    refused(inside(form), f"torch.selu in {BLOCK}; and torch.Tensor.item in {BLOCK}")
