"""What the ops over images are tested on; tests/op_cases.py lists these cases with its own.

Beside the cases: torch's forms of the ops, for the tests of the tracer, whose rows are [2, 5, 4],
and what the ops mean, in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from op_case import INPUTS, OUTPUTS, Function, Meaning, OpCase, frozen, norm
from torch import Tensor, nn

from fastmaml.tracing.network import Node

IMAGE = (2, 5, 4)


class ImageNet(nn.Module):
    """linear -> image -> the op under test -> linear."""

    def __init__(
        self, op: Callable[[Tensor], Tensor], shape: tuple[int, int, int] = IMAGE, freeze: str = ""
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.first = nn.Linear(INPUTS, channels * height * width)
        self.image = nn.Unflatten(1, shape)
        self.op = op
        with torch.no_grad():
            outputs = op(torch.randn(2, *shape))[0].numel()
        self.last = nn.Linear(outputs, OUTPUTS)
        frozen(self, *freeze.split())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.op(self.image(self.first(x))).flatten(1))


class Convolves(nn.Module):
    """F.conv2d with the module's own parameters."""

    def __init__(self, *shape: int, **options: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape) / 3)
        self.bias = nn.Parameter(torch.randn(shape[0]))
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, **self.options)


class Twice(nn.Module):
    """One convolution in two places, of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.avg_pool2d(torch.tanh(self.conv(x)), 2))


class Forks(nn.Module):
    """One image that layers of both layouts read, in two shapes, before a convolution and after."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 3, 2)
        self.right = nn.Conv2d(4, 3, (1, 2))
        self.wide = nn.Linear(4, 4)
        self.heads = nn.ModuleList(nn.Linear(size, 3) for size in (36, 15, 18, 36, 40, 36))

    def forward(self, x: Tensor) -> Tensor:
        tall = x.view(-1, 4, 5, 2)
        h = torch.tanh(self.left(x))
        again = h.reshape(-1, 4, 3, 3)
        parts = (h, self.right(tall), self.right(again), self.left(x), self.wide(x), again)
        total = self.heads[0](parts[0].flatten(1))
        for head, part in zip(list(self.heads)[1:], parts[1:], strict=True):
            total = total + head(part.flatten(1))
        return total


class Narrow(nn.Module):
    """An image of one channel whose numbers the next layers take for those of two."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 1, 2)
        self.two = nn.Conv2d(2, 2, (2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)).view(-1, 2, 2, 3))


class Joins(nn.Module):
    """Channels of convolutions and of their input, joined twice, as in a dense block."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 3, 3, padding=1)
        self.two = nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.relu(self.one(x))], 1)
        return torch.cat(tensors=(torch.tanh(self.two(x)), x), dim=1)


class ManyChannels(nn.Module):
    """A convolution whose weights outgrow a cache: `shape` is that of nn.Conv2d."""

    def __init__(self, *shape: int, **options: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(2, shape[0], 1)
        self.conv = nn.Conv2d(*shape, **options)
        self.narrow = nn.Conv2d(shape[1], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(torch.tanh(self.conv(torch.tanh(self.widen(x)))))


def image(
    op: str,
    variant: str,
    make: Callable[[], Callable[[Tensor], Tensor]],
    freeze: str = "",
    shape: tuple[int, int, int] = IMAGE,
) -> OpCase:
    """A case whose layer is made anew each time."""

    def model() -> nn.Module:
        made = make()
        return ImageNet(made if isinstance(made, nn.Module) else Function(made), shape, freeze)

    return OpCase(op, variant, model)


def conv(variant: str, *sizes: object, freeze: str = "", **options: object) -> OpCase:
    """A case of nn.Conv2d."""
    channels = sizes[0]
    assert isinstance(channels, int)
    return image("conv2d", variant, lambda: nn.Conv2d(*sizes, **options), freeze, (channels, 5, 4))


def function(op: str, variant: str, call: Callable[[Tensor], Tensor]) -> OpCase:
    return image(op, variant, lambda: call)


def stem(
    variant: str,
    *sizes: object,
    pool: object = 2,
    relu: bool = True,
    freeze: str = "",
    shape: tuple[int, int, int] = (2, 9, 7),
    **options: object,
) -> OpCase:
    """Convolution of images that depend on no parameter, batch norm, ReLU if wanted, max-pool."""

    def model() -> nn.Module:
        features = sizes[0]
        layers = (
            nn.Conv2d(shape[0], *sizes, **options),
            norm(nn.BatchNorm2d, features),
            *[nn.ReLU()] * relu,
            nn.MaxPool2d(pool),
        )
        return frozen(nn.Sequential(*layers), *freeze.split())

    return image("stem", variant, model, "first.weight first.bias", shape)


IMAGE_CASES = [
    conv("bias", 2, 3, 3),
    conv("no bias", 2, 3, 3, bias=False),
    conv("one tap", 3, 17, 1),
    conv("stride", 2, 3, (2, 3), (2, 1)),
    conv("padding", 2, 3, (3, 2), padding=(2, 1)),
    conv("stride and padding", 1, 4, 3, 2, 1),
    conv("same, odd", 2, 3, (3, 1), padding="same"),
    conv("same, even", 2, 3, (2, 4), padding="same"),
    conv("same, dilated", 2, 3, 2, padding="same", dilation=(1, 3)),
    conv("valid", 2, 3, 2, padding="valid"),
    conv("dilation", 2, 3, 2, dilation=(3, 2), padding=1),
    conv("groups", 6, 9, 2, groups=3),
    conv("depthwise", 5, 5, 3, padding=1, groups=5),
    conv("depthwise, two each", 3, 6, 2, groups=3, bias=False),
    conv("frozen weight", 2, 3, 3, freeze="op.weight"),
    conv("frozen bias", 2, 3, 3, freeze="op.bias"),
    conv("frozen first", 2, 3, 3, freeze="first.weight first.bias"),
    conv("bias alone", 2, 3, 3, freeze="first.weight first.bias op.weight"),
    conv("frozen", 2, 3, 3, freeze="op.weight op.bias"),
    image("conv2d", "twice", Twice),
    image("conv2d", "many channels", lambda: ManyChannels(260, 131, 3, padding=1)),
    image("conv2d", "many channels, one tap", lambda: ManyChannels(2052, 5, 1, stride=2)),
    image("conv2d", "function", lambda: Convolves(3, 2, 2, 2, stride=2)),
    image("conv2d", "function, groups", lambda: Convolves(4, 1, 2, 2, groups=2, padding=[1, 0])),
    stem("same", 9, 3, padding=1),
    stem("inside", 17, (2, 3), relu=False),
    stem("far outside", 7, 2, padding=1, bias=False, freeze="1.weight"),
    stem("strided", 10, 3, stride=(1, 2), padding=1, pool=(2, 1)),
    stem("dilated", 4, 2, dilation=2, pool=(1, 3), freeze="1.weight 1.bias"),
    stem("seven taps wide", 30, (1, 7), padding="same", pool=(4, 3), freeze="0.bias 1.bias"),
    stem("one tap", 3, 1, shape=(4, 5, 4)),
    stem("tall", 4, (5, 1), shape=(1, 6, 3), pool=1),
    stem("in strips", 24, 3, padding=1, shape=(1, 71, 66)),
    image(
        "patches",
        "several readers",
        lambda: nn.Sequential(Joins(), nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3), nn.MaxPool2d(2)),
        "first.weight first.bias op.0.one.weight op.0.one.bias op.0.two.weight op.0.two.bias",
    ),
    image("concat", "images", Joins),
    function(
        "concat", "features", lambda x: torch.cat([x.flatten(1), torch.tanh(x).flatten(1)], 1)
    ),
    function("concat", "itself", lambda x: torch.concat((x, x, F.relu(x)), dim=1)),
    image("concat", "relu", lambda: lambda x: torch.relu(torch.cat([x.tanh(), x], -3))),
    function("max_pool2d", "", lambda x: F.max_pool2d(x, 2)),
    function("max_pool2d", "stride", lambda x: F.max_pool2d(x, (3, 2), (1, 2))),
    function("max_pool2d", "padding", lambda x: F.max_pool2d(x, 3, 1, 1)),
    function("max_pool2d", "ceil", lambda x: F.max_pool2d(x, 2, 2, (1, 0), ceil_mode=True)),
    function("max_pool2d", "dilation", lambda x: torch.max_pool2d(x, 2, 1, dilation=(2, 1))),
    image("max_pool2d", "module", lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    function("avg_pool2d", "", lambda x: F.avg_pool2d(x, 2)),
    function("avg_pool2d", "padding", lambda x: F.avg_pool2d(x, (3, 2), 1, 1)),
    function("avg_pool2d", "ceil", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
    function(
        "avg_pool2d",
        "ceil, image only",
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    function("avg_pool2d", "divisor", lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
    image("avg_pool2d", "module", lambda: nn.AvgPool2d(2, 1, 1, False, False)),
    function("adaptive_avg_pool2d", "", lambda x: F.adaptive_avg_pool2d(x, (3, 2))),
    function("adaptive_avg_pool2d", "larger", lambda x: F.adaptive_avg_pool2d(x, (7, None))),
    image("adaptive_avg_pool2d", "module", lambda: nn.AdaptiveAvgPool2d(1)),
    function("adaptive_avg_pool2d", "mean", lambda x: x.mean((2, 3))),
    function("adaptive_avg_pool2d", "mean, from the end", lambda x: x.mean([-1, -2])),
    function("adaptive_avg_pool2d", "mean, kept", lambda x: torch.mean(x, (2, 3), keepdim=True)),
    function("adaptive_avg_pool2d", "mean, flat", lambda x: x.flatten(2).mean(-1)),
    function("adaptive_avg_pool2d", "mean, columns", lambda x: x.mean(3)),
    function("adaptive_avg_pool2d", "mean, all", lambda x: x.mean((1, 2, 3), keepdim=True)),
    function("adaptive_avg_pool2d", "mean of features", lambda x: x.flatten(1).mean(1, True)),
    image("permute", "flatten", lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten())),
    image("permute", "several readers", Forks),
    image("permute", "one channel", Narrow),
    image(
        "permute",
        "between layers",
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.Linear(3, 3), nn.MaxPool2d(2), nn.Dropout2d().eval()
        ),
    ),
    image(
        "relu", "images", lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2))
    ),
    image("tanh", "images", lambda: nn.Sequential(nn.Tanh(), nn.Conv2d(2, 3, 2), nn.Tanh())),
]


# --- torch's forms --------------------------------------------------------------------------------


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


# --- what the ops mean ----------------------------------------------------------------------------


def pair(node: Node, name: str) -> tuple[int, int]:
    return int(node.attrs[f"{name}_h"]), int(node.attrs[f"{name}_w"])


def conv2d(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    """Padded at both ends by what comes before the image, one more after it, and cut to size."""
    weight, bias = p
    high, wide = pair(node, "pad")
    y = F.conv2d(
        F.pad(x[0], (wide, wide + 1, high, high + 1)),
        weight,
        bias,
        pair(node, "stride"),
        0,
        pair(node, "dilation"),
        int(node.attrs["groups"]),
    )
    return y[:, :, : node.shape[1], : node.shape[2]]


def pool2d(node: Node, x: Tensor, **options: Any) -> Tensor:
    function = F.max_pool2d if node.op == "max_pool2d" else F.avg_pool2d
    windows = [pair(node, name) for name in ("kernel", "stride", "pad")]
    results = [function(x, *windows, ceil_mode=ceil, **options) for ceil in (False, True)]
    return next(y for y in results if y.shape[1:] == node.shape)


IMAGE_MEANINGS: dict[str, Meaning] = {
    "concat": lambda n, x, p: torch.cat(x, 1),
    "conv2d": conv2d,
    "max_pool2d": lambda n, x, p: pool2d(n, x[0], dilation=pair(n, "dilation")),
    "avg_pool2d": lambda n, x, p: pool2d(
        n,
        x[0],
        count_include_pad=bool(n.attrs["count_include_pad"]),
        divisor_override=int(n.attrs["divisor"]) or None,
    ),
    "adaptive_avg_pool2d": lambda n, x, p: F.adaptive_avg_pool2d(x[0], n.shape[1:]),
}
