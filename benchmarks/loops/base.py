"""What every contestant's loop offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.loops.workloads import LoopWorkload
from benchmarks.workloads import Array

# x and y of the support and of the query set, as in `benchmarks.workloads.Problem`.
Tasks = tuple[tuple[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True, slots=True)
class State:
    """Where a loop has come to, in float64, flat and in the order of `Problem.parameters`.

    Attributes:
        parameters: The network's.
        means: Adam's running means of the gradients.
        squares: Its running means of their squares.
    """

    parameters: npt.NDArray[np.float64]
    means: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


class Loop(ABC):
    """One contestant's training loop.

    Attributes:
        grain: Steps are made in multiples of this number.
    """

    grain: int = 1

    def threads(self) -> int:
        """Threads of its steps' gradients, or torch's; JAX always uses all cores."""
        return torch.get_num_threads()

    @abstractmethod
    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        """Build model, optimizer and image set, compile. Not timed.

        Raises:
            UnavailableError: The library is missing or cannot take this loop.
        """

    @abstractmethod
    def run(self, steps: int) -> None:
        """Train for some steps, a multiple of `grain`; all are done when it returns."""

    @abstractmethod
    def coming(self) -> Tasks:
        """The tasks that the next step is going to draw."""

    @abstractmethod
    def state(self) -> State:
        """Where it is now; before the first step Adam's means are 0."""
