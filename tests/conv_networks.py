"""Random convolutional networks: odd sizes, strides, paddings, groups, norms, pools, residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}
HEADS = ["flatten", "mean", "adaptive"]


@dataclass(frozen=True)
class ConvLayer:
    """One convolution with what follows it; pairs are height, width."""

    channels: int  # per group
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: int
    bias: bool
    norm: str  # "none", "batch", "running", "group", "instance", "layer"
    joined: bool
    activation: str
    pool: str  # "none", "max", "avg"
    pool_kernel: int
    pool_stride: int
    pool_padding: int
    ceil: bool
    residual: bool


@dataclass(frozen=True)
class ConvWorkload:
    """One random meta-step over images."""

    inputs: int
    height: int
    width: int
    layers: tuple[ConvLayer, ...]
    head: str
    outputs: int
    tasks: int
    support_rows: int
    query_rows: int
    inner_steps: int
    first_order: bool
    channels_last: bool
    seed: int

    def model(self) -> RandomConvNet:
        torch.manual_seed(self.seed)
        return RandomConvNet(self)

    def data(self, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(self.seed)

        def draw(rows: int) -> tuple[Tensor, Tensor]:
            shape = (self.tasks, rows, self.inputs, self.height, self.width)
            x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            if self.channels_last:
                x = x.movedim(2, -1).contiguous().movedim(-1, 2)
            return x, torch.randint(self.outputs, (self.tasks, rows), generator=generator)

        return draw(self.support_rows), draw(self.query_rows)

    def settings(self) -> dict[str, Any]:
        return {
            "loss": "cross_entropy",
            "inner_lr": 0.05,
            "inner_steps": self.inner_steps,
            "first_order": self.first_order,
        }


def norm(kind: str, channels: int) -> nn.Module:
    """A normalisation of images; that of layers is a group norm of one group."""
    if kind == "none":
        return nn.Identity()
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if kind in ("group", "layer"):
        groups = 2 if kind == "group" and channels % 2 == 0 and channels > 2 else 1
        return nn.GroupNorm(groups, channels)
    return nn.BatchNorm2d(channels)


class Block(nn.Module):
    """A convolution, norm, activation and pool; a residual adds a second one of the same shape."""

    def __init__(self, inputs: int, layer: ConvLayer) -> None:
        super().__init__()
        self.layer = layer
        groups = layer.groups if inputs % layer.groups == 0 else 1
        outputs = layer.channels * groups
        same = layer.padding == "same"
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            layer.kernel,
            1 if same else layer.stride,
            layer.padding,
            layer.dilation,
            groups,
            layer.bias,
        )
        self.norm = norm(layer.norm, outputs)
        if layer.norm == "running":
            assert isinstance(self.norm, nn.BatchNorm2d)
            nn.init.normal_(self.norm.running_mean)
            nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
            self.norm.eval()
        outputs *= 2 if layer.joined else 1
        self.second = nn.Conv2d(outputs, outputs, 3, padding="same") if layer.residual else None
        self.act = ACTIVATIONS[layer.activation]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        # Of one number torch leaves rounding where 0 belongs, and a ReLU takes its sign.
        few = y.shape[2] * y.shape[3] < 4 and not isinstance(self.norm, nn.BatchNorm2d)
        x = self.act(y if few else self.norm(y))
        if self.layer.joined:
            x = torch.cat([x, torch.tanh(y)], 1)
        if self.second is not None:
            x = x + torch.tanh(self.second(x))
        layer = self.layer
        size = min(x.shape[2], x.shape[3]) + 2 * layer.pool_padding
        if layer.pool == "none" or layer.pool_kernel > size:
            return x
        pool = F.max_pool2d if layer.pool == "max" else F.avg_pool2d
        return pool(
            x,
            layer.pool_kernel,
            layer.pool_stride,
            layer.pool_padding,
            ceil_mode=layer.ceil,
        )


class RandomConvNet(nn.Module):
    """Blocks while the image lasts, then a head."""

    def __init__(self, load: ConvWorkload) -> None:
        super().__init__()
        self.blocks = nn.Sequential()
        x = torch.zeros(2, load.inputs, load.height, load.width)
        for layer in load.layers:
            block = Block(x.shape[1], layer)
            try:
                with torch.no_grad():
                    x = block(x)
            except (RuntimeError, ValueError):
                break  # the kernel has outgrown the image
            self.blocks.append(block)
        self.head_kind = load.head
        features = {"flatten": x[0].numel(), "mean": x.shape[1], "adaptive": x.shape[1] * 4}
        self.head = nn.Linear(features[load.head], load.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        if self.head_kind == "mean":
            return self.head(x.mean((2, 3)))
        if self.head_kind == "adaptive":
            x = F.adaptive_avg_pool2d(x, 2)
        return self.head(x.flatten(1))


PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def conv_layers(draw: st.DrawFn) -> ConvLayer:
    pool_kernel = draw(st.integers(1, 3))
    return ConvLayer(
        channels=draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 24, 40])),
        groups=draw(st.sampled_from([1, 1, 1, 2, 3, 8])),
        kernel=draw(PAIRS),
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=draw(st.one_of(st.just("same"), st.tuples(st.integers(0, 3), st.integers(0, 3)))),
        dilation=draw(st.sampled_from([1, 1, 1, 2, 3])),
        bias=draw(st.booleans()),
        norm=draw(st.sampled_from(["none", "batch", "running", "group", "instance", "layer"])),
        joined=draw(st.sampled_from([False, False, True])),
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
        pool=draw(st.sampled_from(["none", "max", "avg"])),
        pool_kernel=pool_kernel,
        pool_stride=draw(st.integers(1, 3)),
        pool_padding=draw(st.integers(0, pool_kernel // 2)),
        ceil=draw(st.booleans()),
        residual=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def conv_workloads(draw: st.DrawFn) -> ConvWorkload:
    """Images of 1 x 1 to 13 x 13, one to three blocks, K in 0, 1, 2, both orders."""
    rows = st.integers(2, 7)
    return ConvWorkload(
        inputs=draw(st.sampled_from([1, 2, 3, 6])),
        height=draw(st.integers(1, 13)),
        width=draw(st.integers(1, 13)),
        layers=tuple(draw(st.lists(conv_layers(), min_size=1, max_size=3))),
        head=draw(st.sampled_from(HEADS)),
        outputs=draw(st.sampled_from([2, 3, 5])),
        tasks=draw(st.integers(1, 5)),
        support_rows=draw(rows),
        query_rows=draw(rows),
        inner_steps=draw(st.sampled_from([0, 1, 1, 2])),
        first_order=draw(st.sampled_from([False, False, True])),
        channels_last=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )
