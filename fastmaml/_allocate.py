"""New tensors for the engine to write: outputs, and workspaces that are kept for later calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import starmap

import torch
from torch import Tensor

__all__ = ["Layout", "all_empty", "keep_workspace", "layout", "take_workspace"]

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Sizes, strides and dtype of a dense tensor."""


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


# Workspaces between calls, for all plans: a list's pop and append are atomic, so that threads never
# share one. The few that are kept grow to what the process's largest calls need.
_WORKSPACES: list[Tensor] = []
_KEPT_WORKSPACES = 2


def take_workspace(size: int, device: torch.device) -> Tensor:
    """A workspace of at least `size` bytes that nobody else uses.

    On a device torch's caching allocator keeps it: what a stream frees, the same stream gets again.
    """
    if device.type != "cpu":
        return torch.empty(size, dtype=torch.uint8, device=device)
    try:
        workspace = _WORKSPACES.pop()
        if workspace.numel() >= size:
            return workspace
        del workspace  # before the larger one is made
    except IndexError:
        pass
    return torch.empty(size, dtype=torch.uint8)


def keep_workspace(workspace: Tensor, device: torch.device) -> None:
    """Let later calls have it."""
    if device.type == "cpu" and len(_WORKSPACES) < _KEPT_WORKSPACES:
        _WORKSPACES.append(workspace)
