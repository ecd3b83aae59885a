"""Networks as data: a contestant walks the layers with its own library's operations.

One description serves everybody: `module` makes the torch module from it, `forward` runs it on
operations that a contestant brings (`Operations`), and `contractions` counts its work. So no
contestant can get another network by a slip of its own hand.

Images are rows of [channels, height, width] here; a library that stores them otherwise converts
parameters and data once, before it is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Protocol

import torch
from torch import nn

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W + b over the last dimension of [rows, features]."""

    outputs: int
    bias: bool = True


@dataclass(frozen=True, slots=True)
class Conv:
    """A square convolution of odd size with bias, padded by half of its size on every side."""

    outputs: int
    size: int = 3
    stride: int = 1

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.size // 2


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch statistics and affine; `running` says whether torch also tracks running ones."""

    eps: float = 1e-5
    running: bool = False


@dataclass(frozen=True, slots=True)
class Relu:
    """ReLU, leaky with a slope."""

    slope: float = 0.0


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Maximum of each 2x2 square; an odd last row or column is dropped."""


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over height and width, to [rows, channels]."""


@dataclass(frozen=True, slots=True)
class Flatten:
    """[rows, channels * height * width]."""


@dataclass(frozen=True, slots=True)
class Residual:
    """Sum of two branches over the same input."""

    main: tuple[Layer, ...]
    shortcut: tuple[Layer, ...]


Layer = Linear | Conv | BatchNorm | Relu | MaxPool | Mean | Flatten | Residual


@dataclass(frozen=True, slots=True)
class Network:
    """Layers over rows of one shape."""

    row: Shape
    layers: tuple[Layer, ...]

    @property
    def outputs(self) -> int:
        """Features of the last layer."""
        return prod(_after(self.layers, self.row))

    @property
    def is_convolutional(self) -> bool:
        """Whether there is a convolution, at the top or in a branch."""
        return any(isinstance(layer, Conv) for layer in _flat(self.layers))

    def module(self) -> nn.Sequential:
        """An ordinary torch module with torch's initialisation, drawn from its global generator.

        Returns:
            Layers named by their kind and position: `linear0`, `batchnorm1`, `relu2`, ...
        """
        return _sequential(self.layers, self.row)

    def contractions(self) -> list[tuple[int, bool]]:
        """FLOPs of each contraction's forward pass over one row, padded taps counted.

        Returns:
            (FLOPs, whether it reads the network's input) of every linear layer and convolution.
        """
        return _contractions(self.layers, self.row, reads_input=True)


class Operations(Protocol):
    """What a contestant brings to `forward`; arrays and parameters in its library's layout."""

    def linear(self, x: Any, weight: Any, bias: Any | None) -> Any:
        """A linear layer."""

    def conv(self, layer: Conv, x: Any, weight: Any, bias: Any) -> Any:
        """A convolution."""

    def batch_norm(self, x: Any, weight: Any, bias: Any, eps: float) -> Any:
        """Batch norm over all dimensions but the channels."""

    def relu(self, x: Any, slope: float) -> Any:
        """ReLU, leaky with a slope."""

    def max_pool(self, x: Any) -> Any:
        """2x2 maximum."""

    def mean(self, x: Any) -> Any:
        """Mean over height and width."""

    def flatten(self, x: Any) -> Any:
        """Rows of channels * height * width, channels outermost."""


def forward(
    layers: tuple[Layer, ...],
    run: Operations,
    parameters: Mapping[str, Any],
    x: Any,
    prefix: str = "",
) -> Any:
    """The layers' output.

    Args:
        layers: Of a network or a branch.
        run: The library's operations.
        parameters: By the names that `Network.module` gives them.
        x: Rows.
        prefix: Of the names, within a branch.

    Returns:
        Rows.
    """
    for name, layer in _named(layers):
        weight = parameters.get(f"{prefix}{name}.weight")
        bias = parameters.get(f"{prefix}{name}.bias")
        match layer:
            case Linear():
                x = run.linear(x, weight, bias)
            case Conv():
                x = run.conv(layer, x, weight, bias)
            case BatchNorm():
                x = run.batch_norm(x, weight, bias, layer.eps)
            case Relu():
                x = run.relu(x, layer.slope)
            case MaxPool():
                x = run.max_pool(x)
            case Mean():
                x = run.mean(x)
            case Flatten():
                x = run.flatten(x)
            case Residual():
                main = forward(layer.main, run, parameters, x, f"{prefix}{name}.main.")
                x = main + forward(layer.shortcut, run, parameters, x, f"{prefix}{name}.shortcut.")
    return x


def mlp(widths: tuple[int, ...], *, batch_norm: bool, bias: bool) -> Network:
    """Linear [, batch norm], ReLU per hidden layer, then the output layer.

    Args:
        widths: Features of the input, every hidden layer and the output.
        batch_norm: Whether every hidden linear layer is followed by batch norm.
        bias: Whether linear layers have a bias.
    """
    layers: list[Layer] = []
    for outputs in widths[1:-1]:
        layers += [Linear(outputs, bias)]
        layers += [BatchNorm(running=True)] * batch_norm
        layers += [Relu()]
    return Network(widths[:1], (*layers, Linear(widths[-1], bias)))


# Epsilon of the convolutional networks, that of the paper's code.
EPS = 1e-3


def omniglot_conv(ways: int, channels: int = 64, image: int = 28) -> Network:
    """The paper's Omniglot network, `fastmaml.models.omniglot_conv`."""
    block = (Conv(channels, stride=2), BatchNorm(EPS), Relu())
    return Network((1, image, image), (*block * 4, Mean(), Linear(ways)))


def conv4(ways: int, channels: int = 32, image: int = 84) -> Network:
    """The paper's miniImageNet network, `fastmaml.models.conv4`."""
    block = (Conv(channels), BatchNorm(EPS), Relu(), MaxPool())
    return Network((3, image, image), (*block * 4, Flatten(), Linear(ways)))


def resnet12(
    ways: int, channels: tuple[int, ...] = (64, 160, 320, 640), image: int = 84
) -> Network:
    """Four residual blocks, `fastmaml.models.resnet12`."""
    layers: list[Layer] = []
    for width in channels:
        one = (Conv(width), BatchNorm(EPS))
        main = (*one, Relu(0.1), *one, Relu(0.1), *one)
        shortcut = (Conv(width, size=1), BatchNorm(EPS))
        layers += [Residual(main, shortcut), Relu(0.1), MaxPool()]
    return Network((3, image, image), (*layers, Mean(), Linear(ways)))


def _named(layers: tuple[Layer, ...]) -> Iterator[tuple[str, Layer]]:
    for index, layer in enumerate(layers):
        yield f"{type(layer).__name__.lower()}{index}", layer


def _flat(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    for layer in layers:
        if isinstance(layer, Residual):
            yield from _flat(layer.main + layer.shortcut)
        else:
            yield layer


def _after(layers: tuple[Layer, ...], row: Shape) -> Shape:
    """The shape of a row behind the layers."""
    for layer in layers:
        match layer:
            case Linear():
                row = (layer.outputs,)
            case Conv():
                _, height, width = row
                row = (layer.outputs, -(-height // layer.stride), -(-width // layer.stride))
            case MaxPool():
                row = (row[0], row[1] // 2, row[2] // 2)
            case Mean():
                row = row[:1]
            case Flatten():
                row = (prod(row),)
            case Residual():
                row = _after(layer.main, row)
    return row


def _contractions(
    layers: tuple[Layer, ...], row: Shape, *, reads_input: bool
) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    shapes = [row, *(_after(layers[: end + 1], row) for end in range(len(layers)))]
    for layer, (before, after) in zip(layers, pairwise(shapes), strict=True):
        match layer:
            case Linear():
                found.append((2 * before[0] * layer.outputs, reads_input))
            case Conv():
                found.append((2 * before[0] * layer.size**2 * prod(after), reads_input))
            case Residual():
                for branch in (layer.main, layer.shortcut):
                    found += _contractions(branch, before, reads_input=reads_input)
        reads_input = reads_input and not found
    return found


class _Branches(nn.Module):
    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.main(x) + self.shortcut(x)
        return total


def _sequential(layers: tuple[Layer, ...], row: Shape) -> nn.Sequential:
    model = nn.Sequential()
    for name, layer in _named(layers):
        model.add_module(name, _module(layer, row))
        row = _after((layer,), row)
    return model


def _module(layer: Layer, row: Shape) -> nn.Module:
    match layer:
        case Linear():
            return nn.Linear(row[0], layer.outputs, bias=layer.bias)
        case Conv():
            return nn.Conv2d(row[0], layer.outputs, layer.size, layer.stride, layer.padding)
        case BatchNorm():
            norm = nn.BatchNorm1d if len(row) == 1 else nn.BatchNorm2d
            return norm(row[0], eps=layer.eps, track_running_stats=layer.running)
        case Relu():
            return nn.LeakyReLU(layer.slope) if layer.slope else nn.ReLU()
        case MaxPool():
            return nn.MaxPool2d(2)
        case Mean():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case Flatten():
            return nn.Flatten()
        case Residual():
            return _Branches(_sequential(layer.main, row), _sequential(layer.shortcut, row))


__all__ = [
    "BatchNorm",
    "Conv",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool",
    "Mean",
    "Network",
    "Operations",
    "Relu",
    "Residual",
    "conv4",
    "forward",
    "mlp",
    "omniglot_conv",
    "resnet12",
]
