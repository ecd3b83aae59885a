"""What the ops over images are tested on; tests/op_cases.py lists these cases with its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from op_case import INPUTS, OUTPUTS, Function, OpCase, frozen, norm
from torch import Tensor, nn

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


def norm2d(variant: str, freeze: str = "", **options: bool) -> OpCase:
    return image(
        "batch_norm",
        f"images, {variant}",
        lambda: norm(nn.BatchNorm2d, 2, freeze=freeze, **options),
    )


def pooled(
    variant: str, pool: object, *, relu: bool = True, freeze: str = "", **options: bool
) -> OpCase:
    """Batch norm, ReLU if wanted, and a max-pool, which the engine computes in one sweep."""

    def model() -> nn.Module:
        made = norm(nn.BatchNorm2d, 3, freeze=freeze, **options)
        assert isinstance(made, nn.Module)
        return nn.Sequential(made, *[nn.ReLU()] * relu, nn.MaxPool2d(pool))

    return image("batch_norm", f"pooled, {variant}", model, "", (3, 5, 7))


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


NORMS: list[tuple[str, str, Callable[[], nn.Module], tuple[int, int, int]]] = [
    ("group_norm", "images", lambda: norm(nn.GroupNorm, 3, 9), (9, 2, 3)),
    ("group_norm", "wide", lambda: norm(nn.GroupNorm, 2, 38), (38, 1, 2)),
    ("group_norm", "one group", lambda: norm(nn.GroupNorm, 1, 2), IMAGE),
    ("group_norm", "instance", lambda: norm(nn.InstanceNorm2d, 19, affine=True), (19, 3, 3)),
    ("layer_norm", "columns", lambda: norm(nn.LayerNorm, 4), IMAGE),
    ("layer_norm", "images", lambda: norm(nn.LayerNorm, IMAGE), IMAGE),
]
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
    norm2d("batch"),
    norm2d("batch, plain", affine=False),
    norm2d("batch, weight only", "bias"),
    norm2d("running", training=False),
    norm2d("running, plain", training=False, affine=False),
    image(
        "batch_norm",
        "images, batch of data",
        lambda: norm(nn.BatchNorm2d, 2),
        "first.weight first.bias",
    ),
    pooled("batch", 2),
    pooled("no relu", (1, 3), relu=False),
    pooled("tall", (5, 2)),
    pooled("plain", (2, 3), affine=False),
    pooled("bias only", 2, freeze="weight"),
    pooled("running", (3, 2), training=False),
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
    *(
        image(op, f"{variant}, {name}", make, freeze, shape)
        for op, variant, make, shape in NORMS
        for name, freeze in {
            "all": "",
            "weight": "op.bias",
            "bias": "op.weight",
            "of data": "first.weight first.bias",
        }.items()
    ),
    image("group_norm", "plain", lambda: nn.GroupNorm(2, 4, affine=False), "", (4, 3, 2)),
    image("group_norm", "instance, plain", lambda: nn.InstanceNorm2d(2)),
    function("group_norm", "function", lambda x: F.group_norm(x, 1, eps=0.1)),
    function("group_norm", "instance, function", F.instance_norm),
    function("group_norm", "features", lambda x: F.group_norm(x.flatten(1), 4)),
    function("layer_norm", "function", lambda x: F.layer_norm(x, [5, 4])),
    image("layer_norm", "plain", lambda: nn.LayerNorm(4, elementwise_affine=False)),
    function("layer_norm", "features", lambda x: F.layer_norm(x.flatten(1), (40,))),
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
