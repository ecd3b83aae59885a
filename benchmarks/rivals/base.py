"""What every contestant offers: prepare once, step many times, show the numbers to the check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.workloads import Problem


class UnavailableError(Exception):
    """A contestant cannot take part here; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step computed, in float64 for the check.

    Attributes:
        loss: Mean over tasks of the query loss after adaptation.
        gradient: [P] meta-gradient, flat, in the order of `Problem.parameters`, each tensor in
            torch's layout.
    """

    loss: float
    gradient: npt.NDArray[np.float64]


class Rival(ABC):
    """One way to compute the meta-step.

    Attributes:
        name: Key in the results, e.g. "jax-vmap".
        family: Contestants of one family are forms of one library; the table reports the fastest
            form.
    """

    name: ClassVar[str]
    family: ClassVar[str]

    @abstractmethod
    def prepare(self, problem: Problem) -> None:
        """Build the model, move the data, compile. Not timed.

        Raises:
            UnavailableError: The library is missing or cannot take this problem.
        """

    @abstractmethod
    def step(self) -> Any:
        """One complete meta-step: loss and meta-gradient are computed when it returns."""

    @abstractmethod
    def read(self, result: Any) -> Outcome:
        """The numbers of what `step` returned. Not timed."""


def flatten(pieces: list[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Gradient tensors as one float64 vector."""
    return np.concatenate([np.asarray(piece, dtype=np.float64).ravel() for piece in pieces])
