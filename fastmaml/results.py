"""What the calls hand back: one meta-step's numbers, and models adapted to their tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

__all__ = ["AdaptedTasks", "Backend", "MetaStepResult", "accuracy"]

Backend = Literal["fused", "reference"]


@dataclass(frozen=True, slots=True)
class MetaStepResult:
    """The numbers of one meta-step; no tensor in it carries a graph.

    Attributes:
        task_losses: Query loss of each task after adaptation, shape ``[T]``.
        logits: Model outputs on the query sets after adaptation, shape ``[T, Q, ...]``.
        accuracy: For cross-entropy the share of correct query rows over all tasks, shape ``[]``,
            between 0 and 1; otherwise None.
        backend: What really ran: ``"fused"`` is the compiled engine, ``"reference"`` is PyTorch.
        executor: How: ``"cpu"``; on a CUDA device ``"cuda graph"`` (all launches replayed as one),
            ``"cuda launches"`` (where the caller records a graph) or ``"cuda resident"`` (one
            kernel runs the whole meta-step); ``"torch"`` for the reference.
    """

    task_losses: Tensor
    logits: Tensor
    accuracy: Tensor | None
    backend: Backend
    executor: str = "torch"

    @property
    def loss(self) -> Tensor:
        """Mean over tasks of the query loss after adaptation, shape ``[]``."""
        return self.task_losses.mean()  # when asked for: it takes as long as a part of the call


@dataclass(frozen=True, slots=True)
class AdaptedTasks:
    """One adapted copy of the model's parameters per task.

    Attributes:
        parameters: Fast weights by parameter name, each ``[T, ...]``: the trainable parameters
            after the inner loop. Frozen parameters are shared by all tasks and not listed.
        backend: What really ran the inner loop.
    """

    parameters: dict[str, Tensor]
    backend: Backend
    _predictor: Callable[[dict[str, Tensor], Tensor], Tensor] = field(repr=False)

    def predict(self, x: Tensor) -> Tensor:
        """Run every task's adapted model on that task's rows.

        Args:
            x: Inputs ``[T, Q, ...]``, dtype and device of the model; any number of rows.

        Returns:
            Model outputs ``[T, Q, ...]``, without a graph.

        Raises:
            ShapeError: ``x`` does not have the task count or the row shape of the support set.
            DtypeError: ``x`` has another dtype than the model.
            DeviceError: ``x`` lies on another device than the model.
        """
        return self._predictor(self.parameters, x)


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of rows whose largest logit is at the true class.

    Args:
        logits: ``[..., C]``, floating point.
        y: Class indices ``[...]`` (int64) or class probabilities ``[..., C]``, whose largest
            entry is then the true class.

    Returns:
        A 0-dim tensor of ``logits``' dtype between 0 and 1.
    """
    truth = y.argmax(-1) if y.is_floating_point() else y
    return (logits.argmax(-1) == truth).mean(dtype=logits.dtype)
