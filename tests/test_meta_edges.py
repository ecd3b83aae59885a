"""Corners of the fused calls: what a model may change, odd views, odd modes, empty rows."""

from __future__ import annotations

import pytest
import torch
from small import classification, network
from test_meta import agree, both
from torch import Tensor, nn

import fastmaml
from fastmaml import meta
from fastmaml.verify import _relative

pytestmark = pytest.mark.usefixtures("float64")


def test_lists_that_the_forward_reads_may_change() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.use = nn.Linear(2, 3), ["tanh"]

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            for name in self.use:
                x = getattr(torch, name)(x)
            return x

    model, data = Listed(), classification()
    agree(model, data)
    model.use.append("sigmoid")
    agree(model, data)


def test_inference_mode_leaves_ordinary_gradients() -> None:
    model, data = network(), classification()
    with torch.inference_mode():
        fastmaml.meta_step(model, *data, backend="fused")
    assert not any(p.grad.is_inference() for p in model.parameters())
    fastmaml.meta_step(model, *data, backend="fused")


def test_negated_views() -> None:
    model, ((sx, sy), query) = network(), classification()
    expected, _ = both(model, ((-sx, sy), query))
    ours, _ = both(model, ((torch._neg_view(sx), sy), query))
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)


def test_rows_without_features_run_in_torch() -> None:
    data = torch.zeros(2, 4, 0), torch.zeros(2, 4, 3)
    meta._WARNED.discard(nn.Linear)
    model = nn.Linear(1, 3)
    model.weight = nn.Parameter(torch.zeros(3, 0))
    model.in_features = 0
    with pytest.warns(UserWarning, match="every dimension must be positive, got 0"):
        result = fastmaml.meta_step(model, data, data, loss="mse")
    assert result.backend == "reference"


def test_verify_sees_what_is_not_finite() -> None:
    bad = torch.tensor([1.0, float("nan")])
    assert _relative(bad, torch.ones(2)) == float("inf")
    assert _relative(bad, bad) == 0.0
