"""What a task source is, and the draw of distinct members that every few-shot sampler needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import torch
from torch import Generator, Tensor

from fastmaml.errors import SettingError

Batch: TypeAlias = tuple[Tensor, Tensor]
Episode: TypeAlias = tuple[Batch, Batch]


class TaskSource(Protocol):
    """Anything that draws task batches: ``sample(tasks, generator) -> (support, query)``."""

    def sample(self, tasks: int, generator: Generator) -> Episode:
        """Draws `tasks` tasks; the result depends on the generator's state alone."""
        ...


def episodes(source: TaskSource, *, tasks: int, batch: int, seed: int) -> Iterator[Episode]:
    """Yields `tasks` tasks from `source` in batches of at most `batch`.

    Args:
        source: where the tasks come from.
        tasks: how many tasks in total, at least 1.
        batch: most tasks per yielded batch, at least 1.
        seed: seeds the generator; the same seed and batch give the same tasks.

    Yields:
        ``(support, query)`` batches for `fastmaml.evaluate`.

    Raises:
        SettingError: `tasks` or `batch` is below 1.

    Example:
        >>> from fastmaml.data import SinusoidTasks, episodes
        >>> source = SinusoidTasks(shots=5, query=7)
        >>> [tuple(q[0].shape) for _, q in episodes(source, tasks=5, batch=2, seed=0)]
        [(2, 7, 1), (2, 7, 1), (1, 7, 1)]
    """
    if tasks < 1 or batch < 1:
        raise SettingError(
            f"episodes: tasks and batch must be at least 1, got {tasks} and {batch}; "
            "ask for one task or more."
        )
    generator = Generator().manual_seed(seed)
    for first in range(0, tasks, batch):
        yield source.sample(min(batch, tasks - first), generator)


def distinct(rows: int, members: int, draws: int, generator: Generator) -> Tensor:
    """Draws `draws` different numbers below `members` for every row, in random order.

    Rare repeats (few draws from many members) are redrawn row by row; otherwise the first
    ranks of a random permutation are taken. Both are uniform over ordered selections.

    Args:
        rows: number of independent selections.
        members: size of the set drawn from.
        draws: size of one selection, at most `members`.
        generator: source of randomness.

    Returns:
        int64 tensor [rows, draws].

    Raises:
        SettingError: `draws` is larger than `members`.

    Example:
        >>> import torch
        >>> from fastmaml.data import distinct
        >>> picks = distinct(3, 4, 4, torch.Generator().manual_seed(0))
        >>> picks.sort(dim=1).values.tolist()
        [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    """
    if draws > members:
        raise SettingError(
            f"distinct: draws must be at most members={members}, got {draws}; draw fewer."
        )
    if draws * draws > members:
        return torch.rand(rows, members, generator=generator).argsort(dim=1)[:, :draws]
    picks = torch.randint(members, (rows, draws), generator=generator)
    while True:
        ordered = picks.sort(dim=1).values
        repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[:, 0]
        count = repeated.numel()
        if count == 0:
            return picks
        picks[repeated] = torch.randint(members, (count, draws), generator=generator)
