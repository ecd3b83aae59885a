"""The paper's regression tasks: y = A sin(x - phi), A ~ U[0.1, 5], phi ~ U[0, pi], x ~ U[-5, 5].

Source: Finn, Abbeel, Levine 2017, section 5.1, and the authors' data generator.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fastmaml.data.episodes import Episode
from fastmaml.errors import SettingError

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
INPUT = (-5.0, 5.0)


class Waves(NamedTuple):
    """The truth behind a batch of sinusoid tasks.

    Attributes:
        amplitude: float32 [T, 1, 1].
        phase: float32 [T, 1, 1], in radians.
    """

    amplitude: Tensor
    phase: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Values of the T waves at `x` [T, n, 1] (or [n, 1]); float32 [T, n, 1]."""
        return torch.sub(x, self.phase).sin_().mul_(self.amplitude)


class SinusoidTasks:
    """Sinusoid regression tasks with `shots` support and `query` query points.

    Example:
        >>> import torch
        >>> from fastmaml.data import SinusoidTasks
        >>> source = SinusoidTasks(shots=10, query=10)
        >>> (x, y), query = source.sample(25, torch.Generator().manual_seed(0))
        >>> x.shape, y.shape, bool(y.abs().max() <= 5)
        (torch.Size([25, 10, 1]), torch.Size([25, 10, 1]), True)
    """

    def __init__(self, shots: int, query: int, *, grid: bool = False) -> None:
        """Sets the sizes.

        Args:
            shots: support points per task.
            query: query points per task.
            grid: when true the query points are `query` fixed, evenly spaced values over [-5, 5],
                which measures the same expected error as random points with less noise; otherwise
                they are drawn like the support points, as the authors' code does.

        Raises:
            SettingError: `shots` or `query` is below 1.
        """
        if shots < 1 or query < 1:
            raise SettingError(
                f"SinusoidTasks: shots and query must be at least 1, got {shots} and {query}; "
                "ask for one point or more."
            )
        self.shots = shots
        self.query = query
        self.grid = torch.linspace(*INPUT, query)[:, None] if grid else None
        # A task's numbers are drawn in one row: amplitude, phase, points. So small a batch costs by
        # the call of an operation, not by the number.
        points = shots if grid else shots + query
        bounds = torch.tensor([AMPLITUDE, PHASE, *[INPUT] * points], dtype=torch.float64)[..., None]
        self._low = bounds[:, 0].float()
        self._width = (bounds[:, 1] - bounds[:, 0]).float()
        self._parts = [1, 1, points]

    def draw(self, tasks: int, generator: Generator) -> tuple[Episode, Waves]:
        """As `sample`, together with the waves behind the points.

        Returns:
            ``(support, query)`` and the tasks' `Waves`.
        """
        unit = torch.rand(tasks, sum(self._parts), 1, generator=generator)
        amplitude, phase, x = (
            unit.mul_(self._width).add_(self._low).split_with_sizes(self._parts, 1)
        )
        waves = Waves(amplitude, phase)
        y = waves(x)
        if self.grid is not None:
            return ((x, y), (self.grid.expand(tasks, -1, -1), waves(self.grid))), waves
        sets = [self.shots, self.query]
        (sx, qx), (sy, qy) = (part.split_with_sizes(sets, 1) for part in (x, y))
        return ((sx, sy), (qx, qy)), waves

    def sample(self, tasks: int, generator: Generator) -> Episode:
        """Draws a batch of tasks.

        Args:
            tasks: T, the number of tasks.
            generator: source of randomness.

        Returns:
            ``(support, query)`` with x and y float32 [T, n, 1]; they may share memory.
        """
        return self.draw(tasks, generator)[0]
