"""Corners of the fused calls: what a model may change, odd views, odd modes, empty rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from door import refused
from small import classification, gradients, network
from test_meta import agree, both
from tolerances import assert_close
from torch import Tensor, nn

import fastmaml
from fastmaml import notices, reference
from fastmaml.calls.verify import relative_error
from fastmaml.errors import DtypeError

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


class Indexed(nn.Module):
    """Holds integers: a frozen parameter and a buffer, the first before any weight."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.register_buffer("count", torch.tensor([1, 2, 3]))
        self.layer, self.used = nn.Linear(2, 3), used

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x[:, self.order] * self.count if self.used else x


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
@pytest.mark.parametrize("used", [False, True])
def test_frozen_integers_are_buffers(used: bool) -> None:
    """The engine, all tasks at once and one by one; the engine leaves what it cannot compute."""
    model, data = Indexed(used), classification()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    backend = "reference" if used else "fused"
    found = []
    for call in (fastmaml.meta_step, fastmaml.meta_step, reference.meta_step):
        result = call(model, *data, inner_steps=2)
        assert result.backend == ("reference" if call is reference.meta_step else backend)
        assert model.order.grad is None
        found.append(torch.cat([*gradients(model), result.logits.flatten()]))
        model.zero_grad()
    assert_close(found[0], found[2], "meta_f64")
    assert_close(found[1], found[2], "meta_f64")
    assert fastmaml.verify(model, *data).ok
    for call in (fastmaml.adapt, reference.adapt):
        tasks = call(model, data[0])
        assert list(tasks.parameters) == ["layer.weight", "layer.bias"]
        assert tasks.predict(data[1][0]).dtype is torch.float64
    assert all(map(torch.equal, before, model.state_dict().values()))


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
def test_only_integers_may_differ() -> None:
    """Frozen weights of another dtype are refused, as is training integers alone."""
    model, data = Indexed(True), classification()
    model.order = nn.Parameter(torch.ones(3, dtype=torch.float16), requires_grad=False)
    for call in (fastmaml.meta_step, reference.meta_step):
        with pytest.raises(fastmaml.DtypeError, match=r"got torch.float64 for `layer\.weight`"):
            call(model, *data)
        with pytest.raises(fastmaml.SettingError, match="requires_grad=True, got none in Indexed"):
            call(Indexed(False).requires_grad_(False), *data)


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x * torch.rand(()).item() if self.training else x


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
@pytest.mark.parametrize(
    "make",
    [lambda: nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)), Draws],
    ids=["dropout", "draws"],
)
def test_refusals_end_with_their_cause(make: Callable[[], nn.Module]) -> None:
    """Training mode, hooks and hooks on all modules: the engine takes over as soon as they go."""
    model, data = make(), classification()

    def backend() -> str:
        return fastmaml.meta_step(model, *data).backend

    assert [(model.train(mode), backend())[1] for mode in (True, False) * 2] == [
        "reference",
        "fused",
    ] * 2
    for hook in (
        lambda: next(iter(model.children())).register_forward_hook(lambda *_: None),
        lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
    ):
        handle = hook()
        try:
            assert [backend(), backend()] == ["reference"] * 2
        finally:
            handle.remove()
        assert backend() == "fused"


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
    notices._SAID.pop(nn.Linear, None)
    model = nn.Linear(1, 3)
    model.weight = nn.Parameter(torch.zeros(3, 0))
    model.in_features = 0
    with pytest.warns(UserWarning, match="every dimension must be positive, got 0"):
        result = fastmaml.meta_step(model, data, data, loss="mse")
    assert result.backend == "reference"


def test_verify_sees_what_is_not_finite() -> None:
    bad = torch.tensor([1.0, float("nan")])
    assert relative_error(bad, torch.ones(2)) == float("inf")
    assert relative_error(bad, bad) == 0.0


class Idle(nn.Module):
    """Has a parameter that no layer uses, and the model's first."""

    def __init__(self, idle: Tensor) -> None:
        super().__init__()
        self.idle = nn.Parameter(idle)
        self.layer = nn.Linear(2, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_used_parameters_are_like_unused_ones() -> None:
    model, (support, query) = Idle(torch.zeros(2, dtype=torch.float32)), classification()
    data = [(x.float(), y) for x, y in (support, query)]
    refused(
        DtypeError,
        "meta_step: all of the model must be torch.float32 like `idle`, got torch.float64 for "
        "`layer.weight`; call model.float() or model.double().",
        lambda: fastmaml.meta_step(model, *data, backend="fused"),
    )
    model.idle.data = model.idle.data.double()
    assert fastmaml.meta_step(model, support, query, backend="fused").backend == "fused"
    assert model.idle.grad is None
