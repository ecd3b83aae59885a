"""What lies in ``.grad`` already: added to, or refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from door import refused
from small import classification, gradients, network
from tolerances import assert_close
from torch import Tensor, nn

import fastmaml
from fastmaml.definition.functional import accumulate
from fastmaml.errors import DeviceError, DtypeError, SettingError, ShapeError

pytestmark = pytest.mark.usefixtures("float64")


def inference(like: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.zeros_like(like)


HELD: dict[str, tuple[type[Exception], str, Callable[[Tensor], Tensor]]] = {
    "sparse": (
        SettingError,
        "a dense tensor, got torch.sparse_coo",
        lambda like: torch.zeros_like(like).to_sparse(),
    ),
    "dtype": (
        DtypeError,
        "torch.float64 like the parameter, got torch.float32",
        lambda like: torch.zeros_like(like).float(),
    ),
    "shape": (
        ShapeError,
        "[3, 4] like the parameter, got [1, 4]",
        lambda like: torch.zeros_like(like)[:1],
    ),
    "inference": (
        SettingError,
        "an ordinary tensor, got one that was made in inference mode",
        inference,
    ),
    "expanded": (
        SettingError,
        "a tensor that can be added to, got an expanded one whose entries share memory",
        lambda like: torch.zeros(1, 1).expand_as(like),
    ),
}


def hold(parameter: nn.Parameter, make: Callable[[Tensor], Tensor]) -> None:
    """Put such a tensor into ``.grad``, past torch's own checks where need be."""
    grad = make(parameter.detach())
    if grad.dtype is parameter.dtype and grad.shape == parameter.shape:
        parameter.grad = grad
    else:
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad.data = grad


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("case", HELD)
def test_nothing_is_written_unless_all_can_be(case: str, backend: Any) -> None:
    kind, text, make = HELD[case]
    model, data = network(), classification()
    rate = torch.tensor(0.3, requires_grad=True)
    fastmaml.meta_step(model, *data, inner_lr=rate, backend=backend)
    model[1].bias.grad = None
    hold(model[5].weight, make)
    others = [p for p in model.parameters() if p is not model[5].weight and p.grad is not None]
    before = [p.grad.clone() for p in others]
    learned = rate.grad.clone()
    refused(
        kind,
        f"meta_step: .grad of `5.weight` must be {text}; "
        "set it to None, as optimizer.zero_grad() does.",
        lambda: fastmaml.meta_step(model, *data, inner_lr=rate, backend=backend),
    )
    assert all(torch.equal(p.grad, old) for p, old in zip(others, before, strict=True))
    assert model[1].bias.grad is None
    assert torch.equal(rate.grad, learned)


def test_gradients_elsewhere() -> None:
    """On the CPU alone torch lets no other device into ``.grad``."""
    held = {"bias": SimpleNamespace(grad=torch.zeros(2, device="meta"))}
    refused(
        DeviceError,
        "meta_step: .grad of `bias` must be on cpu like the parameter, got meta; "
        "set it to None, as optimizer.zero_grad() does.",
        lambda: accumulate("meta_step", held, 0.1, {"bias": torch.zeros(2)}, None),  # type: ignore
    )


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize(
    "make",
    [
        lambda like: torch.ones(like.shape[::-1]).t(),
        lambda like: torch.ones_like(like, requires_grad=True),
        lambda like: 1.0 * torch.ones_like(like, requires_grad=True),
    ],
    ids=["other strides", "a leaf", "with a graph"],
)
def test_odd_gradients_are_added_to(make: Callable[[Tensor], Tensor], backend: Any) -> None:
    model, data = network(), classification()
    fastmaml.meta_step(model, *data, backend=backend)
    once = gradients(model)
    model.zero_grad()
    grad = model[5].weight.grad = make(model[5].weight)
    fastmaml.meta_step(model, *data, backend=backend)
    assert model[5].weight.grad is grad
    grad = grad.detach() - 1.0
    assert_close(grad.flatten(), once[-2], "meta_f64")


def test_inference_gradients_are_added_to_in_inference_mode() -> None:
    model, data = network(), classification()
    fastmaml.meta_step(model, *data)
    once = gradients(model)
    model[5].weight.grad = inference(model[5].weight)
    with torch.inference_mode():
        fastmaml.meta_step(model, *data, backend="fused")
        assert torch.equal(model[5].weight.grad.flatten(), once[-2])


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("held", [False, True])
def test_rates_computed_from_parameters(held: bool, backend: Any) -> None:
    """Such a parameter gets both gradients, whether or not there was one before."""
    data = classification()
    found = []
    for both in (True, False):
        torch.manual_seed(2)
        model = network()
        if held:
            fastmaml.meta_step(model, *data, backend=backend)
        if both:
            fastmaml.meta_step(model, *data, inner_lr=model[5].bias[0].exp(), backend=backend)
        else:
            rate = model[5].bias[0].exp().detach().requires_grad_()
            fastmaml.meta_step(model, *data, inner_lr=rate, backend=backend)
            model[5].bias.grad[0] += rate.grad * rate.detach()
        found.append(torch.cat(gradients(model)))
    assert_close(found[0], found[1], "meta_f64")
