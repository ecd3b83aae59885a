"""Translators of normalisations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F

from fastmaml.errors import shown

from .network import Builder, Value

__all__ = ["FUNCTIONS"]


def _check(b: Builder, eps: float, *statistics: Any) -> None:
    """Leave to torch what it refuses."""
    if not 0 < eps <= sys.float_info.max:
        b.stop(f" with eps={shown(eps)}")
    if any(held is not None and held.tensor.requires_grad for held in statistics):
        b.stop(" with running statistics that require grad")


def batch_norm(
    b: Builder,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Features over the rows, channels over the rows and pixels."""
    x = b.use(input)
    if len(x.shape) not in (1, 3):
        b.stop(f" on rows of shape {list(x.shape)}")
    for tensor in (weight, bias, running_mean, running_var):
        if tensor is not None and tensor.shape != x.shape[:1]:
            b.misfit(str([*tensor.shape, *x.shape[1:]]), x.shape)
    _check(b, eps, running_mean, running_var)
    if training:  # running statistics are only written then, and this package never does
        running_mean = running_var = None
    elif running_mean is None or running_var is None:
        b.stop(" in eval mode without running statistics")
    params = tuple(b.param(tensor) for tensor in (weight, bias, running_mean, running_var))
    return b.emit("batch_norm", (x,), x.shape, params, eps=eps, batch_stats=float(training))


def group_norm(
    b: Builder, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Value:
    """Groups of a row's channels, each over itself."""
    x = b.use(input)
    if len(x.shape) not in (1, 3):
        b.stop(f" on rows of shape {list(x.shape)}")
    _check(b, eps)
    channels = x.shape[0]
    if num_groups < 1 or channels % num_groups:
        b.stop(f" with {channels} channels in {num_groups} groups")
    for tensor in (weight, bias):
        if tensor is not None and tensor.shape != x.shape[:1]:
            b.misfit(str([*tensor.shape, *x.shape[1:]]), x.shape)
    params = (b.param(weight), b.param(bias))
    return b.emit("group_norm", (x,), x.shape, params, groups=float(num_groups), eps=eps)


def instance_norm(
    b: Builder,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Channels of an image, each over its pixels: as many groups as channels."""
    x = b.use(input)
    if len(x.shape) != 3:
        b.stop(f" on rows of shape {list(x.shape)}")
    if x.shape[1] * x.shape[2] == 1:
        b.stop(f" on rows of shape {list(x.shape)}, one number a channel")
    if running_mean is not None or running_var is not None or not use_input_stats:
        b.stop(" with running statistics")
    return group_norm(b, x, x.shape[0], weight, bias, eps)


def layer_norm(
    b: Builder,
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Value:
    """The last dimensions of a row, over themselves."""
    x = b.use(input)
    last = (
        tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
    )
    _check(b, eps)
    if not last or x.shape[-len(last) :] != last:
        b.misfit(f"[..., {', '.join(map(str, last))}]", x.shape)
    for tensor in (weight, bias):
        if tensor is not None and tuple(tensor.shape) != last:
            b.stop(f" with parameters of shape {list(tensor.shape)} for {list(last)}")
    params = (b.param(weight), b.param(bias))
    return b.emit("layer_norm", (x,), x.shape, params, dims=float(len(last)), eps=eps)


FUNCTIONS: dict[Any, Callable[..., Value]] = {
    F.batch_norm: batch_norm,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
}
