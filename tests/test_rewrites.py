"""Where the planner joins layers: reshapes between them, images far from 0, NaNs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from op_cases import PASSES
from test_ops import Pairs, answer, check
from tolerances import TOLERANCE, relative_error
from torch import nn

import fastmaml

TASKS, ROWS, CLASSES = 2, 6, 3
SPREAD = 0.1
Shape = tuple[int, ...]


def tasks(*shape: int) -> Pairs:
    return tuple(
        (torch.randn(TASKS, ROWS, *shape), torch.randint(CLASSES, (TASKS, ROWS))) for _ in range(2)
    )


def planned(model: nn.Module, pairs: Pairs) -> str:
    return fastmaml.describe(model, *pairs, loss="cross_entropy")


def unflatten(*shape: int) -> nn.Module:
    return nn.Unflatten(1, shape)


# One channel: the image and its numbers in a row lie alike in memory, so that no instruction
# stands between.
RESHAPED: dict[str, tuple[Shape, Callable[[], list[nn.Module]]]] = {
    "rows, then an image's pool": (
        (16,),
        lambda: [nn.BatchNorm1d(16), nn.ReLU(), unflatten(1, 4, 4), nn.MaxPool2d(2)],
    ),
    "an image, then a wider one's pool": (
        (1, 4, 4),
        lambda: [nn.BatchNorm2d(1), nn.Flatten(), unflatten(1, 2, 8), nn.MaxPool2d(2)],
    ),
    "a convolution, then a taller image": (
        (1, 4, 6),
        lambda: [
            nn.Conv2d(1, 1, 1),
            nn.Flatten(),
            unflatten(1, 6, 4),
            nn.BatchNorm2d(1),
            nn.MaxPool2d(2),
        ],
    ),
    "a convolution, then rows": (
        (1, 4, 4),
        lambda: [nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), nn.BatchNorm1d(16), nn.ReLU()],
    ),
}


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize(("shape", "layers"), RESHAPED.values(), ids=RESHAPED)
def test_layers_that_see_other_shapes_are_not_joined(
    shape: Shape, layers: Callable[[], list[nn.Module]], settings: dict[str, object]
) -> None:
    model = nn.Sequential(*layers(), nn.Flatten(), nn.LazyLinear(CLASSES))
    model(torch.randn(2, *shape))
    pairs = tasks(*shape)
    assert "stem" not in planned(model, pairs)
    check(model, pairs, loss="cross_entropy", **settings)


# Windows that move by one pixel, and windows that do not: two ways to the moments.
STRIDES = pytest.mark.parametrize("stride", [1, 2])


@STRIDES
@pytest.mark.parametrize("apart", [0.0, 30.0, 1000.0])
def test_stem_of_images_far_apart(stride: int, apart: float) -> None:
    """Filters that see edges only: their variance is that within the images, tiny against all.

    What must remain are the roundings of the folded weights, times offset over spread: an error
    linear in it, where moments about one centre for all images lose its square.
    """
    conv = nn.Conv2d(2, 16, 3, stride=stride, bias=False)
    with torch.no_grad():
        conv.weight -= conv.weight.mean((2, 3), keepdim=True)
    layers = [conv, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, CLASSES))
    offsets = apart * torch.arange(float(ROWS)).view(ROWS, 1, 1, 1)
    pairs = tuple((SPREAD * x + offsets, y) for x, y in tasks(2, 20, 17))
    assert "stem" in planned(model, pairs)
    settings = {"loss": "cross_entropy", "inner_steps": 0}
    ours, truth = (
        answer(model, pairs, dtype, fused=dtype == torch.float32, **settings)
        for dtype in (torch.float32, torch.float64)
    )
    condition = 1 + apart * (ROWS - 1) / SPREAD
    allowed = TOLERANCE["float32_ulps"] * torch.finfo(torch.float32).eps * condition
    assert relative_error(ours.logits, truth.logits) <= allowed
    assert relative_error(ours.task_losses, truth.task_losses) <= allowed


def test_pixels_between_windows_do_not_count() -> None:
    layers = [nn.Conv2d(1, 8, 1, stride=2), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(32, CLASSES)).double()
    pairs = tuple((x.double(), y) for x, y in tasks(1, 8, 8))
    assert "stem" in planned(model, pairs)
    expected = answer(model, pairs, torch.float64, fused=True, inner_lr=0.1)
    for x, _ in pairs:
        x[:, 0, 0, 1, 1] = torch.nan
    actual = answer(model, pairs, torch.float64, fused=True, inner_lr=0.1)
    torch.testing.assert_close(actual.gradient, expected.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2)], ids=["relu", "leaky"])
def test_nan_passes_back_through_a_joined_activation(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), activation, nn.Linear(8, CLASSES))
    pairs = tasks(5)
    pairs[1][0][0, 0, 0] = torch.nan
    ours, torchs = (
        answer(model, pairs, torch.float32, fused=fused, inner_steps=0) for fused in (True, False)
    )
    assert torch.equal(ours.gradient.isnan(), torchs.gradient.isnan())
    assert torch.equal(ours.logits.isnan(), torchs.logits.isnan())
    assert not ours.logits[1].isnan().any()
