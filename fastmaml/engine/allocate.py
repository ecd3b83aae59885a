"""What the engine writes, new tensors, and what it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import starmap
from typing import NamedTuple

import torch
from torch import Tensor

from .kept import Recent

__all__ = ["InstructionTime", "Layout", "Layouts", "Outputs", "all_empty", "layout"]

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Sizes, strides and dtype of a dense tensor."""


class Outputs(NamedTuple):
    """What one run wrote."""

    task_losses: Tensor  # [T]; of a curve [T, K + 1]
    logits: Tensor  # [T, Q, ...]; of a curve [T, K + 1, Q, ...]
    tensors: list[Tensor]  # meta-gradients [shape] or fast weights [T, shape], trainable order
    rate_dots: Tensor | None  # [T, K]
    executor: str  # "cpu", or "cuda graph", "cuda launches", "cuda resident"


class InstructionTime(NamedTuple):
    """What one instruction of the program took in a profiled run."""

    label: str  # the pass that wrote it: "step 0 fc1.backward", "query fc1.forward"
    seconds: float  # one thread, all tasks
    flops: float  # multiply-adds counted as two; 0 unless it is a contraction


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


class Layouts:
    """Of all that a plan's calls write, by number of tasks.

    Args:
        purpose: As of `CompiledPlan`.
        dtype: Of all of it.
        inner_steps: K.
        logits: Their shape for one task.
        trainable: The shapes of the parameters that are trained.
        rate_grad: Whether ``<v, g[k]>``, of the rates' meta-gradients, is written.
        kept: For how many numbers of tasks they are kept.
    """

    def __init__(
        self,
        purpose: str,
        dtype: torch.dtype,
        inner_steps: int,
        logits: tuple[int, ...],
        trainable: list[tuple[int, ...]],
        rate_grad: bool,
        kept: int,
    ) -> None:
        """Nothing is made yet."""
        self._dtype = dtype
        points = (inner_steps + 1,) if purpose == "curve" else ()
        self._of_tasks = [points, (*points, *logits)]
        self._of_all: list[tuple[int, ...]] = []
        self._dots = [(inner_steps,)] if rate_grad else []
        if purpose == "adapt":
            self._of_tasks += trainable
        elif purpose == "meta_step":
            self._of_all = trainable
        self._made = Recent[int, list[Layout]](kept)

    def of(self, tasks: int) -> list[Layout]:
        """Losses, logits, outputs, the rates' products."""
        found = self._made[tasks]
        if found is None:
            shapes = [(tasks, *shape) for shape in self._of_tasks] + self._of_all
            shapes += [(tasks, *shape) for shape in self._dots]
            found = self._made[tasks] = [layout(shape, self._dtype) for shape in shapes]
        return found

    @property
    def bytes(self) -> int:
        """Bytes of those that are kept, as measured."""
        return sum(256 * len(made or ()) for _, made in self._made.everything())
