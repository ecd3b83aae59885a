"""What every contestant offers: prepare once, step many times, show the numbers to the check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from benchmarks.workloads import Problem

Batch = tuple[Tensor, Tensor]


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


class TorchRival(Rival):
    """A contestant that leaves the meta-gradient in `.grad` of torch tensors, as its users want it.

    Attributes:
        parameters: What a torch optimizer steps, in the order of `Problem.parameters`.
        support: x and y of the prepared problem.
        query: The same.
    """

    parameters: list[Tensor]
    support: Batch
    query: Batch

    @abstractmethod
    def add_gradients(self, support: Batch, query: Batch) -> Any:
        """One meta-step on these tasks after `zero_grad()`.

        Returns:
            What `read` takes: the mean query loss after adaptation unless a contestant has more.
        """

    def step(self) -> Any:
        for parameter in self.parameters:
            parameter.grad = None
        return self.add_gradients(self.support, self.query)

    def read(self, result: Tensor) -> Outcome:
        gradients = [p.grad for p in self.parameters]
        return Outcome(
            result.item(), flatten([g.cpu().numpy() for g in gradients if g is not None])
        )


def flatten(pieces: list[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Gradient tensors as one float64 vector."""
    return np.concatenate([np.asarray(piece, dtype=np.float64).ravel() for piece in pieces])
