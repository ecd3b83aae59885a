"""Images that a layer cannot take and layers over images that the engine cannot, by text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastmaml
from fastmaml.errors import DtypeError, ShapeError, UnsupportedModelError
from fastmaml.tracing.trace import trace

IMAGE = (2, 5, 4)


class Convolves(nn.Module):
    def __init__(self, shape: tuple[int, ...], biases: int = 0, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(biases)) if biases else None
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, **self.options)


class Calls(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


UNSUPPORTED: list[tuple[nn.Module, str]] = [
    *(
        (
            nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode),
            f"(torch.nn.Conv2d) with padding_mode='{mode}'",
        )
        for mode in ("reflect", "replicate", "circular")
    ),
    (Convolves((3, 1, 2, 2), groups=2), "with 3 output channels in 2 groups"),
    (Convolves((3, 2, 2, 2), groups=0), "with 3 output channels in 0 groups"),
    (Convolves((3, 2, 2)), "with a weight of shape [3, 2, 2]"),
    (Convolves((3, 2, 2, 2), 2), "with a bias of shape [2] for 3 output channels"),
    (Convolves((3, 2, 2, 2), stride=2, padding="same"), "with padding='same' and stride=2"),
    (Convolves((3, 2, 2, 2), stride=0), "with kernel 2, stride 0, dilation 1 and padding 0 in one"),
    (Convolves((3, 2, 2, 2), padding=(1, 2, 3)), "with padding=(1, 2, 3)"),
    (Convolves((3, 2, 2, 2), padding=-1), "with kernel 2, stride 1, dilation 1 and padding -1 in"),
    (nn.MaxPool2d(2, padding=2), "with padding=2 of more than half the kernel"),
    (nn.MaxPool2d(2, return_indices=True), "model (torch.nn.MaxPool2d)"),
    (nn.MaxPool2d(2, 1, 1, 5), "with dilation=5, whose windows step over images of 5 x 4"),
    (nn.AdaptiveAvgPool2d(0), "with output_size=0"),
    (Calls(lambda x: F.adaptive_avg_pool2d(x, (1, 2, 3))), "with output_size=(1, 2, 3)"),
    (nn.AdaptiveMaxPool2d(1), "(torch.nn.AdaptiveMaxPool2d)"),
    (nn.Conv1d(5, 3, 2), "(torch.nn.Conv1d)"),
    (nn.ConvTranspose2d(2, 3, 2), "(torch.nn.ConvTranspose2d)"),
    (nn.InstanceNorm2d(2, track_running_stats=True), "with running statistics"),
    (Calls(lambda x: F.instance_norm(x.mean((2, 3), True))), "one number a"),
    (Calls(lambda x: F.group_norm(x, 3)), "with 2 channels in 3 groups"),
    (Calls(lambda x: torch.cat([x, x], 2)), ", which concatenates along dimension 2"),
    (Calls(lambda x: torch.cat([x, x])), ", which changes the dimension of the rows"),
    (
        Calls(lambda x: torch.cat([x, F.max_pool2d(x, 2)], 1)),
        ", which concatenates rows of shapes [[2, 5, 4], [2, 2, 2]]",
    ),
    (nn.Dropout2d(), ", which drops at random in training mode"),
    (nn.BatchNorm1d(2), "(torch.nn.BatchNorm1d): expected 2D or 3D input"),
    (Calls(lambda x: x.mean()), ", which takes the mean over the rows"),
    (Calls(lambda x: x.mean(())), ", which takes the mean over dimensions [] of 4"),
    (Calls(lambda x: x.mean(1)), ", which takes the mean over dimensions [1] of 4"),
    (Calls(lambda x: x.mean((2, 2))), ", which takes the mean over dimensions [2, 2] of 4"),
    (Calls(lambda x: x.mean((0, 2))), ", which changes the dimension of the rows"),
]
MISFITS: list[tuple[nn.Module, tuple[int, ...], str]] = [
    (nn.Conv2d(3, 4, 2), IMAGE, "(torch.nn.Conv2d) must get rows of shape [3, height, width], got"),
    (nn.Conv2d(2, 4, 2), (4, 4), "must get rows of shape [channels, height, width], got [4, 4]"),
    (nn.Conv2d(2, 4, 2), (8,), "must get rows of shape [channels, height, width], got [8]"),
    (nn.Conv2d(2, 4, 2), (1, *IMAGE), "[channels, height, width], got [1, 2, 5, 4]"),
    (nn.Conv2d(2, 4, 7, padding=1), IMAGE, "[channels, ...] at least 5 wide, got [2, 5, 4]"),
    (nn.Conv2d(2, 4, 3, dilation=3), IMAGE, "[channels, ...] at least 7 high, got [2, 5, 4]"),
    (nn.MaxPool2d(5), IMAGE, "[channels, ...] at least 5 wide, got [2, 5, 4]"),
    (nn.AvgPool2d((6, 1)), IMAGE, "[channels, ...] at least 6 high, got [2, 5, 4]"),
    (nn.AdaptiveAvgPool2d(1), (5, 4), "must get rows of shape [channels, height, width], got"),
    (nn.LayerNorm(5), IMAGE, "(torch.nn.LayerNorm) must get rows of shape [..., 5], got [2, 5, 4]"),
    (nn.BatchNorm2d(3), IMAGE, "(torch.nn.BatchNorm2d) must get rows of shape [3, 5, 4], got"),
]


@pytest.mark.parametrize(("model", "text"), UNSUPPORTED, ids=[text for _, text in UNSUPPORTED])
def test_layers_refused(model: nn.Module, text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=re.escape(text)):
        trace(model, IMAGE)


@pytest.mark.parametrize(("model", "row", "text"), MISFITS, ids=[m[2] for m in MISFITS])
def test_shapes_refused(model: nn.Module, row: tuple[int, ...], text: str) -> None:
    with pytest.raises(ShapeError, match=f"^trace: .*{re.escape(text)}.*; change the layer or the"):
        trace(model, row)


def pairs(dtype: torch.dtype = torch.float32) -> Any:
    return [(torch.zeros(2, 3, *IMAGE, dtype=dtype), torch.zeros(2, 3).long()) for _ in range(2)]


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_integer_images(backend: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten())
    with pytest.raises(DtypeError, match=r"x must be torch.float32 .*got torch.\w+; call x.float"):
        fastmaml.meta_step(model, *pairs(dtype), backend=backend)


class Circular(nn.Sequential):
    """A class of its own: each warns once."""


def test_other_paddings_fall_back() -> None:
    model = Circular(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten())
    with pytest.raises(UnsupportedModelError, match=r"layer `0` .* with padding_mode='circular'"):
        fastmaml.meta_step(model, *pairs(), backend="fused")
    with pytest.warns(UserWarning, match="padding_mode='circular'"):
        assert fastmaml.meta_step(model, *pairs()).backend == "reference"


def test_one_number_a_channel() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, (5, 4)), nn.BatchNorm2d(3), nn.Flatten())
    one = [(x[:, :1], y[:, :1]) for x, y in pairs()]
    with pytest.raises(ShapeError, match="more than one row per task, got 1; use more shots"):
        fastmaml.meta_step(model, *one, backend="fused")
