"""What the engine writes: new tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import starmap
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Layout", "Outputs", "all_empty", "layout"]

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Sizes, strides and dtype of a dense tensor."""


class Outputs(NamedTuple):
    """What one run wrote."""

    task_losses: Tensor  # [T]; of a curve [T, K + 1]
    logits: Tensor  # [T, Q, ...]; of a curve [T, K + 1, Q, ...]
    tensors: list[Tensor]  # meta-gradients [shape] or fast weights [T, shape], trainable order
    loss_dots: Tensor | None  # [T, K]
    executor: str  # "cpu", or "cuda graph", "cuda launches", "cuda resident"


def _empty_strided(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cpu")


try:
    # What torch's own compiler allocates with: the same for a third of `torch.empty`'s time.
    _EMPTY: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]
    _EMPTY = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]
except AttributeError:
    _EMPTY = _empty_strided


def layout(shape: tuple[int, ...], dtype: torch.dtype) -> Layout:
    """The layout of a C-ordered tensor.

    >>> layout((2, 3), torch.float32)[1]
    (3, 1)
    """
    strides = []
    stride = 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= max(size, 1)
    return tuple(shape), tuple(reversed(strides)), dtype


def all_empty(layouts: Iterable[Layout], device: torch.device) -> list[Tensor]:
    """Tensors with any contents, each with memory of its own.

    >>> [t.shape for t in all_empty([layout((2, 3), torch.float32)], torch.device("cpu"))]
    [torch.Size([2, 3])]
    """
    if device.type != "cpu":
        return [torch.empty(shape, dtype=dtype, device=device) for shape, _, dtype in layouts]
    return list(starmap(_EMPTY, layouts))
