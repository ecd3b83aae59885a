"""Torch's forms of the ops over images, for the tests of the tracer: rows are [2, 5, 4]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from op_case import norm
from op_cases_image import Convolves
from torch import Tensor, nn

IMAGE = (2, 5, 4)


class OwnConv(Convolves):
    """torch.conv2d with the module's own parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.conv2d(x, self.weight, self.bias, **self.options)


IMAGE_MODULES: dict[type[nn.Module], list[Callable[[], nn.Module]]] = {
    nn.Conv2d: [
        lambda: nn.Conv2d(2, 3, 3),
        lambda: nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0), bias=False, groups=2),
        lambda: nn.Conv2d(2, 3, 2, padding="same", dilation=(1, 3)),
        lambda: nn.Conv2d(2, 3, 2, padding="valid"),
    ],
    nn.BatchNorm2d: [
        lambda: nn.BatchNorm2d(2, eps=1e-3),
        lambda: norm(nn.BatchNorm2d, 2, training=False),
        lambda: nn.BatchNorm2d(2, affine=False),
    ],
    nn.GroupNorm: [lambda: norm(nn.GroupNorm, 2, 2), lambda: nn.GroupNorm(1, 2, 0.1, affine=False)],
    nn.InstanceNorm2d: [
        lambda: nn.InstanceNorm2d(2),
        lambda: norm(nn.InstanceNorm2d, 2, affine=True),
    ],
    nn.LayerNorm: [lambda: norm(nn.LayerNorm, 4), lambda: nn.LayerNorm((5, 4), bias=False)],
    nn.MaxPool2d: [
        lambda: nn.MaxPool2d(2),
        lambda: nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True),
        lambda: nn.MaxPool2d(2, 1, dilation=2),
    ],
    nn.AvgPool2d: [
        lambda: nn.AvgPool2d(2),
        lambda: nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True),
        lambda: nn.AvgPool2d(3, 1, 1, False, False),
        lambda: nn.AvgPool2d(2, divisor_override=3),
    ],
    nn.AdaptiveAvgPool2d: [
        lambda: nn.AdaptiveAvgPool2d(1),
        lambda: nn.AdaptiveAvgPool2d((None, 3)),
    ],
    nn.Dropout2d: [lambda: nn.Dropout2d().eval(), lambda: nn.Dropout2d(0.0)],
}

IMAGE_FUNCTIONS: dict[Any, list[Callable[..., Any]]] = {
    F.conv2d: [lambda: Convolves(3, 2, 2, 2), lambda: Convolves(4, 1, 2, 2, groups=2, stride=[2])],
    torch.conv2d: [lambda: OwnConv(3, 2, 2, 2, padding=1, dilation=2)],
    F.max_pool2d: [lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 3, 2, 1, 1, True)],
    torch.max_pool2d: [lambda x: torch.max_pool2d(x, [2, 1], padding=[1, 0])],
    F.avg_pool2d: [lambda x: F.avg_pool2d(x, 2, count_include_pad=False, padding=1)],
    F.adaptive_avg_pool2d: [lambda x: F.adaptive_avg_pool2d(x, 2)],
    F.group_norm: [lambda x: F.group_norm(x, 2, eps=0.1)],
    F.instance_norm: [lambda x: F.instance_norm(x, eps=0.1)],
    F.layer_norm: [lambda x: F.layer_norm(x, (4,)), lambda x: F.layer_norm(x, [2, 5, 4])],
    torch.cat: [lambda x: torch.cat([x, x.tanh()], 1), lambda x: torch.cat(tensors=(x, x), dim=-3)],
    torch.concat: [lambda x: torch.concat((x.flatten(1), x.relu().flatten(1)), 1)],
    torch.concatenate: [lambda x: torch.concatenate([x, x], dim=1)],
    F.dropout2d: [lambda x: F.dropout2d(x, training=False)],
    torch.mean: [lambda x: torch.mean(x, (2, 3)), lambda x: torch.mean(x, 3, keepdim=True)],
}

IMAGE_METHODS: dict[str, list[Callable[[Any], Tensor]]] = {
    "mean": [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean([-1, -2]),
        lambda x: x.mean(dim=(1, 2, 3), keepdim=True),
        lambda x: x.flatten(2).mean(-1),
        lambda x: x.flatten(1).mean(1),
    ],
}
