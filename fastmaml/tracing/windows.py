"""Translators of what slides over images: convolutions, pools and means over space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .network import Builder, Value, dim_of, to_shape

__all__ = ["FUNCTIONS", "METHODS"]


def _pair(b: Builder, value: Any, what: str) -> tuple[int, int]:
    """A setting of both spatial dimensions, height first."""
    both = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(both) == 1:
        both *= 2
    if len(both) != 2 or not all(isinstance(size, int) for size in both):
        b.stop(f" with {what}={value!r}")
    return both[0], both[1]


def _image(b: Builder, input: Any) -> Value:
    x = b.use(input)
    if len(x.shape) != 3:
        b.misfit("[channels, height, width]", x.shape)
    return x


class _Window(NamedTuple):
    """A sliding window over an image, height first; ``pad`` is what lies before and after."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]

    def out(self, b: Builder, x: Value, ceil: bool = False) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = []
        for i, side in enumerate(("high", "wide")):
            padded = x.shape[i + 1] + sum(self.pad[i])
            reach = self.dilation[i] * (self.kernel[i] - 1) + 1
            if min(self.kernel[i], self.stride[i], self.dilation[i]) < 1 or min(self.pad[i]) < 0:
                b.stop(
                    f" with kernel {self.kernel[i]}, stride {self.stride[i]}, dilation "
                    f"{self.dilation[i]} and padding {self.pad[i][0]} in one dimension"
                )
            if padded < reach and ceil:
                b.stop(f" with ceil_mode over an image that is less than {reach} {side}")
            if padded < reach:
                b.misfit(f"[channels, ...] at least {reach - sum(self.pad[i])} {side}", x.shape)
            size = (padded - reach + (self.stride[i] - 1 if ceil else 0)) // self.stride[i] + 1
            # No window may begin in the padding after the image.
            if ceil and (size - 1) * self.stride[i] >= x.shape[i + 1] + self.pad[i][0]:
                size -= 1
            sizes.append(size)
        return sizes[0], sizes[1]

    def meets_pixels(self, x: Value, out: tuple[int, int]) -> bool:
        """Whether every window has a tap inside the image: dilation may step over a small one."""
        return all(
            any(
                0 <= at * self.stride[i] - self.pad[i][0] + k * self.dilation[i] < x.shape[i + 1]
                for k in range(self.kernel[i])
            )
            for i in range(2)
            for at in range(out[i])
        )

    def attrs(self) -> dict[str, float]:
        """The attributes of an op's node."""
        return {
            f"{name}_{side}": float(value)
            for name, pair in (
                ("kernel", self.kernel),
                ("stride", self.stride),
                ("pad", (self.pad[0][0], self.pad[1][0])),
                ("dilation", self.dilation),
            )
            for side, value in zip("hw", pair, strict=True)
        }


def conv2d(
    b: Builder,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """A convolution with zero padding, whose weight is a parameter or buffer."""
    x = _image(b, input)
    w, c = b.param(weight), b.param(bias)
    if len(weight.shape) != 4:
        b.stop(f" with a weight of shape {list(weight.shape)}")
    out_channels, per_group, *size = weight.shape
    if groups < 1 or out_channels % groups:
        b.stop(f" with {out_channels} output channels in {groups} groups")
    if bias is not None and tuple(bias.shape) != (out_channels,):
        b.stop(f" with a bias of shape {list(bias.shape)} for {out_channels} output channels")
    kernel, reach = _pair(b, tuple(size), "kernel_size"), _pair(b, dilation, "dilation")
    pad: tuple[tuple[int, int], tuple[int, int]]
    if padding == "same":
        if _pair(b, stride, "stride") != (1, 1):
            b.stop(f" with padding='same' and stride={stride!r}")
        total = [reach[i] * (kernel[i] - 1) for i in range(2)]
        pad = ((total[0] // 2, -(-total[0] // 2)), (total[1] // 2, -(-total[1] // 2)))
    else:
        high, wide = (0, 0) if padding == "valid" else _pair(b, padding, "padding")
        pad = ((high, high), (wide, wide))
    window = _Window(kernel, _pair(b, stride, "stride"), pad, reach)
    if x.shape[0] != per_group * groups:
        b.misfit(f"[{per_group * groups}, height, width]", x.shape)
    shape = (out_channels, *window.out(b, x))
    return b.emit("conv2d", (x,), shape, (w, c), groups=float(groups), **window.attrs())


def _pool_window(b: Builder, kernel: Any, stride: Any, padding: Any, dilation: Any) -> _Window:
    size = _pair(b, kernel, "kernel_size")
    high, wide = _pair(b, padding, "padding")
    if high > size[0] // 2 or wide > size[1] // 2:
        b.stop(f" with padding={padding!r} of more than half the kernel")
    return _Window(
        size,
        size if stride is None or stride == [] else _pair(b, stride, "stride"),
        ((high, high), (wide, wide)),
        _pair(b, dilation, "dilation"),
    )


def max_pool2d(
    b: Builder,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """The largest number of each window."""
    if return_indices:
        b.stop(", which returns indices")
    x = _image(b, input)
    window = _pool_window(b, kernel_size, stride, padding, dilation)
    out = window.out(b, x, ceil_mode)
    if not window.meets_pixels(x, out):
        b.stop(
            f" with dilation={dilation!r}, whose windows step over images of "
            f"{x.shape[1]} x {x.shape[2]}"
        )
    return b.emit("max_pool2d", (x,), (x.shape[0], *out), (), **window.attrs())


def avg_pool2d(
    b: Builder,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The sum of each window over its size, or over a divisor."""
    x = _image(b, input)
    if divisor_override == 0:
        b.stop(" with divisor_override=0")
    window = _pool_window(b, kernel_size, stride, padding, 1)
    return b.emit(
        "avg_pool2d",
        (x,),
        (x.shape[0], *window.out(b, x, ceil_mode)),
        (),
        count_include_pad=float(count_include_pad),
        divisor=float(divisor_override or 0),
        **window.attrs(),
    )


def adaptive_avg_pool2d(b: Builder, input: Any, output_size: Any) -> Value:
    """Means of windows that cover the image in a given number of steps."""
    x = _image(b, input)
    sizes = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * 2
    if len(sizes) != 2 or not all(size is None or size > 0 for size in sizes):
        b.stop(f" with output_size={output_size!r}")
    high, wide = (x.shape[i + 1] if size is None else size for i, size in enumerate(sizes))
    return b.emit("adaptive_avg_pool2d", (x,), (x.shape[0], high, wide))


def mean(b: Builder, input: Any, dim: Any = None, keepdim: bool = False) -> Value:
    """Means over the trailing dimensions: one window over all of them."""
    x = b.use(input)
    if dim is None:
        b.stop(", which takes the mean over the rows")
    rank = len(x.shape) + 1
    dims = sorted(dim_of(b, d, rank) for d in (dim if isinstance(dim, Sequence) else (dim,)))
    kept = rank - len(dims)
    if not dims or dims != list(range(kept, rank)):
        b.stop(f", which takes the mean over dimensions {dims} of {rank}")
    lead, width = x.shape[: kept - 1], math.prod(x.shape[kept - 1 :])
    if kept != 2 or rank != 4:
        x = to_shape(b, x, (math.prod(lead), 1, width))
    pooled = b.emit("adaptive_avg_pool2d", (x,), (x.shape[0], 1, 1))
    return to_shape(b, pooled, (*lead, *((1,) * len(dims) if keepdim else ())))


FUNCTIONS: dict[Any, Callable[..., Value]] = {
    F.conv2d: conv2d,
    torch.conv2d: conv2d,
    F.max_pool2d: max_pool2d,
    torch.max_pool2d: max_pool2d,
    F.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    torch.mean: mean,
}
METHODS: dict[str, Callable[..., Value]] = {"mean": mean}
