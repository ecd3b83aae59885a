"""float32 rounds as torch does: data far from 0, and what decides the kinks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from forced import Force
from tolerances import TOLERANCE
from torch import Tensor, nn

import fastmaml
from fastmaml import verify
from fastmaml.calls.prepared import compute

ROWS, WAYS, DRAWS = 10, 5, 6


class Errors(NamedTuple):
    """Geometric means over draws of the errors relative to float64."""

    gradient: float
    logits: float


def run(
    model: nn.Module, x: Tensor, query: Tensor, backend: str, steps: int
) -> tuple[Tensor, Tensor]:
    y = torch.arange(ROWS).remainder(WAYS).expand(x.shape[0], ROWS)
    model.zero_grad()
    settings = {"inner_lr": 0.05, "inner_steps": steps, "backend": backend}
    done = fastmaml.meta_step(model, (x, y), (query, y), **settings)
    gradient = torch.cat([p.grad.double().flatten() for p in model.parameters()])
    return gradient, done.logits.double()


def errors(
    build: Callable[[], nn.Module], draw: Callable[[], Tensor], backend: str, steps: int = 1
) -> Errors:
    logs = torch.zeros(2, dtype=torch.float64)
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        model, x, query = build(), draw(), draw()
        exact = run(copy.deepcopy(model).double(), x.double(), query.double(), "reference", steps)
        found = run(model, x, query, backend, steps)
        pairs = zip(found, exact, strict=True)
        logs += torch.tensor([float(((a - b).norm() / b.norm()).log()) for a, b in pairs])
    return Errors(*(math.exp(value) for value in (logs / DRAWS).tolist()))


def pixels(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 256, (3, ROWS, *shape)).float()


def far(mean: float, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(3, ROWS, *shape) + mean


def head(features: int) -> list[nn.Module]:
    return [nn.Tanh(), nn.Flatten(), nn.Linear(features, WAYS)]


def linear(inputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, WAYS)
    )


def conv(channels: int, side: int, **options: int) -> nn.Module:
    layer = nn.Conv2d(channels, 8, 3, **options)
    out = layer(torch.zeros(1, channels, side, side)).shape[-1]
    return nn.Sequential(layer, nn.BatchNorm2d(8), *head(8 * out * out))


def stem(channels: int, side: int) -> nn.Module:
    first = nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.MaxPool2d(2)
    return nn.Sequential(*first, *head(16 * (side // 2) ** 2))


def second() -> nn.Module:
    layers = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    return nn.Sequential(*layers, *head(8 * 36))


def large() -> nn.Module:
    """Rows that a convolution leaves the moments of, and that threads may share."""
    layers = nn.Conv2d(2, 64, 5, stride=2), nn.BatchNorm2d(64), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*layers, *head(256))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear, far": (lambda: linear(64), far(10, 64)),
    "linear, very far": (lambda: linear(784), far(-100, 784)),
    "linear, pixels": (lambda: linear(784), pixels(1, 28, 28)),
    "convolution, far": (lambda: conv(2, 8), far(30, 2, 8, 8)),
    "convolution, very far": (lambda: conv(2, 8), far(-300, 2, 8, 8)),
    "padded, far": (lambda: conv(3, 8, padding=1), far(30, 3, 8, 8)),
    "strided, pixels": (lambda: conv(3, 13, stride=2), pixels(3, 13, 13)),
    "second convolution, far": (second, far(30, 2, 8, 8)),
    "stem, far": (lambda: stem(3, 12), far(30, 3, 12, 12)),
    "stem, pixels": (lambda: stem(3, 12), pixels(3, 12, 12)),
    "many rows, far": (large, far(30, 2, 41, 41)),
}


@pytest.mark.parametrize(("build", "draw"), CASES.values(), ids=CASES)
def test_data_far_from_zero(build: Callable[[], nn.Module], draw: Callable[[], Tensor]) -> None:
    ours, torchs = (errors(build, draw, backend) for backend in ("fused", "reference"))
    for mine, its in zip(ours, torchs, strict=True):
        assert mine <= TOLERANCE["float32_ratio"] * its


@pytest.mark.parametrize("width", [32, 64, 160])
def test_forward_by_winograd_rounds_no_more_than_a_plain_sum(width: int, force: Force) -> None:
    force(winograd=5)
    layers: list[nn.Module] = []
    for inputs in (3, width, width):
        block = nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        layers += [*block, nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 4, WAYS))

    def images() -> Tensor:
        return torch.rand(1, ROWS, 3, 16, 16)

    def error(backend: str) -> float:
        return errors(lambda: copy.deepcopy(model), images, backend, steps=0).logits

    labels = torch.zeros(1, ROWS, dtype=torch.int64)
    assert "Winograd F(2x2)" in fastmaml.describe(model, *[(images(), labels)] * 2)
    assert error("fused") <= TOLERANCE["float32_ratio"] * error("reference")


@pytest.mark.parametrize("calls", [1, 4, 5, 100])
def test_verify_compares_medians_of_draws(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in fewer than half of the draws is a kink's; one in all of them is the engine's."""
    off: list[object] = []

    def spoiled(call: Any, *, want_grad: bool) -> Any:
        outcome = compute(call, want_grad=want_grad)
        if call.tasks.support_x.dtype is torch.float64 or len(off) == calls:
            return outcome
        off.append(call)
        return outcome._replace(logits=outcome.logits * 1.01)

    monkeypatch.setitem(verify.__globals__, "compute", spoiled)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    before = torch.random.get_rng_state()
    data = torch.ones(4, 5, 3), torch.zeros(4, 5, dtype=torch.int64)
    report = fastmaml.verify(model, data, data)
    assert report.ok == (calls < 5)
    assert (report.error > 1e-3) == (calls >= 5)
    assert report.error_float64 < TOLERANCE["meta_f64"]
    assert torch.equal(torch.random.get_rng_state(), before)
