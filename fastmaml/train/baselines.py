"""What MAML is compared with, on the same tasks: prototypical networks and nearest neighbours.

Prototypical networks (Snell, Swersky, Zemel 2017) learn an embedding in which a class is the mean
of its support pictures; here it is the workload's network without its last layer, with batch
statistics of each task's own pictures, support and query together. Nearest neighbours learn
nothing: a picture gets the class of the support picture with the most similar pixels (cosine).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmaml.calls.evaluate import Evaluation, correct, from_tasks
from fastmaml.data import Batch, Episode

BACKEND = "torch"
Scorer = Callable[[Batch, Tensor], Tensor]


def prototype_scores(embedding: nn.Module, support: Batch, x: Tensor) -> Tensor:
    """Minus the squared Euclidean distance of each query picture to each class mean.

    Args:
        embedding: from [rows, ...] to [rows, F] (or more dimensions, then flattened).
        support: x [T, S, ...] and y int64 [T, S], every class 0..N-1 present in each task.
        x: query pictures [T, Q, ...].

    Returns:
        [T, Q, N], differentiable in the embedding's parameters.
    """
    rows = support[0].shape[1]
    # vmap keeps the tasks' batch statistics apart while convolutions run over all rows at once.
    points = torch.func.vmap(embedding)(torch.cat([support[0], x], dim=1)).flatten(2)
    member = F.one_hot(support[1]).to(points.dtype)
    share = member / member.sum(dim=1, keepdim=True)
    prototypes = share.transpose(1, 2) @ points[:, :rows]
    apart = points[:, rows:, None] - prototypes[:, None]
    scores: Tensor = -apart.square().sum(dim=-1)
    return scores


def neighbour_scores(support: Batch, x: Tensor) -> Tensor:
    """Largest cosine of each query picture's pixels with a support picture of each class.

    Args:
        support: x [T, S, ...] and y int64 [T, S], every class 0..N-1 present in each task.
        x: query pictures [T, Q, ...].

    Returns:
        [T, Q, N].
    """
    known, asked = (F.normalize(part.flatten(2), dim=2) for part in (support[0], x))
    cosine = asked @ known.transpose(1, 2)
    other = F.one_hot(support[1]).transpose(1, 2)[:, None] == 0
    return cosine[:, :, None].masked_fill(other, -torch.inf).amax(dim=-1)


def protonet_step(embedding: nn.Module, episode: Episode) -> tuple[Tensor, Tensor]:
    """Adds the gradient of the mean query cross-entropy over all tasks to ``.grad``.

    Args:
        embedding: as in `prototype_scores`.
        episode: support and query sets.

    Returns:
        Mean loss and accuracy, 0-dim, without a graph.
    """
    support, (x, y) = episode
    scores = prototype_scores(embedding, support, x)
    loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), correct(scores.detach(), y).mean()


def evaluate_protonet(embedding: nn.Module, episodes: Iterable[Episode]) -> Evaluation:
    """Query loss and accuracy of a prototypical network; figures have the one index 0."""
    return _evaluate(functools.partial(prototype_scores, embedding), episodes, scored=True)


def evaluate_nearest(episodes: Iterable[Episode]) -> Evaluation:
    """Accuracy of nearest neighbours on raw pixels; the loss is nan, there being none."""
    return _evaluate(neighbour_scores, episodes, scored=False)


def _evaluate(scorer: Scorer, episodes: Iterable[Episode], *, scored: bool) -> Evaluation:
    losses: list[Tensor] = []
    rates: list[Tensor] = []
    for support, (x, y) in episodes:
        with torch.no_grad():
            scores = scorer(support, x)
        loss = F.cross_entropy(scores.transpose(1, 2), y, reduction="none").mean(dim=1)
        losses.append((loss if scored else torch.full_like(loss, torch.nan)).double()[None])
        rates.append(correct(scores, y)[None])
    return from_tasks(losses, rates, BACKEND)
