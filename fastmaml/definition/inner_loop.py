"""The inner loop in PyTorch: of the reference, and of the fallback's many tasks at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastmaml.settings import Settings

from .functional import Function

__all__ = ["LossOf", "inner_loop", "query_losses"]

LossOf = Callable[[Mapping[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]
"""Losses and outputs of parameters by name on x and y: of a task, or of several stacked ones."""


def query_losses(
    function: Function,
    loss: LossOf,
    phi: dict[str, Tensor],
    settings: Settings,
    data: Sequence[Tensor],
    *,
    every_step: bool,
    dim: int = 0,
) -> tuple[Tensor, Tensor]:
    """Query losses after adaptation and logits, with their graph to the initial ``phi``.

    Args:
        function: The model.
        loss: Its loss, of one task or of several at once.
        phi: The parameters by name; they are moved.
        settings: Of the call.
        data: Support x and y, query x and y: of a task, or of as many as `loss` takes.
        every_step: Gives those after 0, 1, ..., K inner steps, without a graph.
        dim: Where these are then stacked.
    """
    x, y, *query = data
    points: list[tuple[Tensor, Tensor]] = []

    def look() -> None:
        losses, logits = loss(phi, *query)
        points.append((losses.detach(), logits.detach()))

    inner_loop(function, loss, phi, settings, x, y, look if every_step else None)
    if not every_step:
        return loss(phi, *query)
    look()
    losses, outputs = zip(*points, strict=True)
    return torch.stack(losses, dim), torch.stack(outputs, dim)


def inner_loop(
    function: Function,
    loss: LossOf,
    phi: dict[str, Tensor],
    settings: Settings,
    x: Tensor,
    y: Tensor,
    look: Callable[[], None] | None = None,
) -> None:
    """Move ``phi`` by K gradient steps on support sets, and `look` before each."""
    for _ in range(settings.inner_steps):
        if look is not None:
            look()
        _step(function, loss, phi, settings, x, y)


def _step(
    function: Function,
    loss: LossOf,
    phi: dict[str, Tensor],
    settings: Settings,
    x: Tensor,
    y: Tensor,
) -> None:
    """Move ``phi`` by one of them, but for parameters that the loss does not depend on."""
    losses, _ = loss(phi, x, y)
    if not losses.requires_grad:
        return
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(
        losses.sum() if losses.dim() else losses,
        list(phi.values()),
        create_graph=not settings.first_order,
        allow_unused=True,
    )
    function.release()  # each parameter goes as the new one comes, unless a graph holds it
    alpha = settings.inner_lr
    for name, g in zip(phi, grads, strict=True):
        if g is None:
            continue
        if isinstance(alpha, Tensor):
            phi[name] = phi[name] - alpha * g
        elif abs(alpha) <= torch.finfo(g.dtype).max:  # one operation, and one in backward
            phi[name] = torch.sub(phi[name], g, alpha=alpha)
        else:  # infinite in the model's dtype, as for the engine
            phi[name] = phi[name] - math.copysign(math.inf, alpha) * g
