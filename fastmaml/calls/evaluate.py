"""Evaluation of a meta-learned model: query loss and accuracy after 0, 1, ..., K inner steps.

Every figure is a mean over tasks with its 95% interval 1.96 std / sqrt(n), std being the
population's as in the authors' code. No gradient is formed and the model is not changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastmaml.definition import fallback
from fastmaml.errors import SettingError
from fastmaml.losses import LossArgument
from fastmaml.settings import BackendChoice, Options, Precision, Settings, check_options

from .prepared import prepare, run

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one evaluation; index k of every tuple is "after k inner steps".

    Attributes:
        tasks: n, the number of tasks.
        loss: mean over tasks of the mean query loss.
        loss_interval: half width of its 95% interval, 1.96 std / sqrt(n).
        accuracy: share of correct query rows, 0..1; None unless the loss is cross-entropy.
        accuracy_interval: half width of its 95% interval.
        backend: "fused" or "reference", what really ran.
    """

    tasks: int
    loss: tuple[float, ...]
    loss_interval: tuple[float, ...]
    accuracy: tuple[float, ...] | None
    accuracy_interval: tuple[float, ...] | None
    backend: str

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain values by name."""
        return asdict(self)

    def __str__(self) -> str:
        """The figures as a small table."""
        head = f"steps   loss ({self.tasks} tasks)"
        lines = [head if self.accuracy is None else f"{head}     accuracy %"]
        for k, (mean, interval) in enumerate(zip(self.loss, self.loss_interval, strict=True)):
            line = f"{k:5d}   {mean:8.4f} +- {interval:.4f}"
            if self.accuracy is not None and self.accuracy_interval is not None:
                line += f"   {100 * self.accuracy[k]:6.2f} +- {100 * self.accuracy_interval[k]:.2f}"
            lines.append(line)
        return "\n".join(lines)


def evaluate(
    model: nn.Module,
    episodes: Iterable[tuple[Batch, Batch]],
    *,
    inner_steps: int,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    backend: BackendChoice = "auto",
    precision: Precision = "float32",
) -> Evaluation:
    """Measures `model` after 0, 1, ..., `inner_steps` inner steps on each task.

    Args:
        model: the network; its mode decides how batch norm behaves, see `fastmaml.meta_step`.
        episodes: ``(support, query)`` batches as `fastmaml.meta_step` takes them, for example
            from `fastmaml.data.episodes`. Sizes may differ from batch to batch.
        inner_steps: largest number of steps, at least 0.
        loss: as in `fastmaml.meta_step`; its scale is that of `inner_lr`.
        inner_lr: inner learning rate.
        backend: as in `fastmaml.meta_step`.
        precision: as in `fastmaml.meta_step`.

    Returns:
        Means and 95% intervals over all tasks, for every number of steps.

    Raises:
        SettingError: `inner_steps` is negative or no integer, or `episodes` is empty or holds
            something else.

    Source: Finn, Abbeel, Levine 2017, sections 5.1 and 5.2 (600 tasks there).

    Example:
        >>> import fastmaml, torch
        >>> from fastmaml.data import SinusoidTasks, episodes
        >>> tasks = episodes(SinusoidTasks(shots=5, query=5), tasks=20, batch=10, seed=0)
        >>> model = torch.nn.Linear(1, 1)
        >>> result = fastmaml.evaluate(model, tasks, inner_steps=2, loss="mse", inner_lr=0.01)
        >>> result.tasks, len(result.loss)
        (20, 3)
    """
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "backend": backend,
        "precision": precision,
        "first_order": True,
    }
    settings = check_options("evaluate", options)
    losses: list[Tensor] = []
    rates: list[Tensor] = []
    ran = ""
    for support, query in _sets(episodes):
        task_losses, logits, ran = _curve(model, support, query, settings)
        losses.append(task_losses.double())
        if settings.loss.classifies:
            rates.append(torch.stack([correct(point, query[1]) for point in logits]))
    return from_tasks(losses, rates, ran)


def _sets(episodes: Any) -> Iterator[tuple[Batch, Batch]]:
    """Support and query of each batch; errors as `evaluate`, beside the iterator's own."""
    wanted = "evaluate: episodes must be batches (support, query), one after another"
    try:
        batches = iter(episodes)
    except TypeError:
        raise SettingError(
            f"{wanted}, got {type(episodes).__name__}; pass a list, or fastmaml.data.episodes."
        ) from None
    for batch in batches:
        try:
            support, query = batch
        except (TypeError, ValueError) as error:
            raise SettingError(
                f"{wanted}, got one that is {type(batch).__name__}: {error}; make each a pair."
            ) from error
        yield support, query


def _curve(
    model: nn.Module, support: Batch, query: Batch, settings: Settings
) -> tuple[Tensor, Tensor, str]:
    """Query losses [K + 1, T] and logits [K + 1, T, Q, ...], and what ran.

    Each task adapts once, and its query set is looked at before every step.
    """
    call = prepare("evaluate", model, support, query, settings, "curve")
    if call.fit is not None:
        ran = run(call, call.fit)
        return ran.task_losses.T, ran.logits.transpose(0, 1), "fused"
    points = fallback.compute(
        call.model, call.tasks, settings, want_grad=False, where=call.where, every_step=True
    )
    return points.task_losses.T, points.logits.transpose(0, 1), "reference"


def from_tasks(losses: list[Tensor], rates: list[Tensor], backend: str) -> Evaluation:
    """Means and intervals of figures measured task by task.

    Args:
        losses: query losses float64 [K + 1, T] of one or more batches.
        rates: accuracies of the same shapes; empty for a regression.
        backend: what ran.

    Returns:
        The `Evaluation`.

    Raises:
        SettingError: `losses` is empty.
    """
    if not losses:
        raise SettingError(
            "evaluate: episodes must hold at least one batch of tasks, got none; a generator "
            "gives its tasks only once."
        )
    means, intervals, tasks = _summary(losses)
    accuracy, accuracy_interval, _ = _summary(rates) if rates else (None, None, 0)
    return Evaluation(tasks, means, intervals, accuracy, accuracy_interval, backend)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Share of correct rows of each task, float64 [T]; y holds classes or class probabilities."""
    truth = y.argmax(dim=-1) if y.is_floating_point() else y
    return (logits.argmax(dim=-1) == truth).double().flatten(1).mean(dim=1)


def _summary(parts: list[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Means, 95% half widths and n from values [K + 1, T] of several batches."""
    values = torch.cat(parts, dim=1)
    tasks = values.shape[1]
    interval = 1.96 * values.std(dim=1, correction=0) / math.sqrt(tasks)
    return tuple(values.mean(dim=1).tolist()), tuple(interval.tolist()), tasks
