"""Check first: nobody is timed who does not compute the meta-gradient.

The truth is the reference in float64. Float64 runs must agree to rounding. A float32 run is
compared with the same truth; where a pre-activation lies within rounding of a ReLU's kink, float32
may take the other branch, so its limit only excludes a wrong formula and the error itself is
reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F

from benchmarks.rivals.base import Outcome, Rival, UnavailableError
from benchmarks.rivals.pytorch import PytorchLoop
from benchmarks.workloads import Problem, Workload, make_problem

FLOAT64_LIMIT = 1e-9
FLOAT32_LIMIT = 1e-3


class RefusedError(Exception):
    """A contestant computed something else; the text says how far off it was."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of the meta-gradient, 2-norm of the difference over 2-norm of the truth."""

    float64: float
    float32: float


class Checker:
    """Holds the truths of one workload and checks contestants against them.

    Args:
        workload: The workload that will be timed. The float64 check runs its first `check_tasks`
            tasks, the float32 check all of them.
    """

    def __init__(self, workload: Workload) -> None:
        """Compute the truths."""
        self._problem = make_problem(workload, "float32")
        self._problem64 = make_problem(replace(workload, tasks=workload.check_tasks), "float64")
        self._truth64 = reference(self._problem64)
        if workload.check_tasks == workload.tasks:
            self._truth = self._truth64
        else:
            self._truth = reference(make_problem(workload, "float64"))

    def admit(self, contestant: type[Rival]) -> tuple[Rival, Errors]:
        """Check a contestant in both dtypes.

        Returns:
            The contestant, prepared for the float32 workload, and its errors.

        Raises:
            RefusedError: It is further from the truth than the limits.
            UnavailableError: It cannot take part.
        """
        _, error64 = _measure(contestant, self._problem64, self._truth64, FLOAT64_LIMIT)
        ready, error32 = _measure(contestant, self._problem, self._truth, FLOAT32_LIMIT)
        return ready, Errors(error64, error32)


def reference(problem: Problem) -> Outcome:
    """The truth: `fastmaml.reference.meta_step`; without fastmaml the benchmark's own loop."""
    try:
        from fastmaml.reference import meta_step
    except ImportError:
        loop = PytorchLoop()
        loop.prepare(problem)
        return loop.read(loop.step())
    workload = problem.workload
    model = problem.module()
    support, query = problem.tensors()
    result = meta_step(
        model,
        support,
        query,
        loss=F.mse_loss if workload.loss == "mse" else F.cross_entropy,
        inner_lr=workload.inner_lr,
        inner_steps=workload.inner_steps,
    )
    gradients = [p.grad for p in model.parameters()]
    flat = np.concatenate([g.numpy().ravel() for g in gradients if g is not None])
    return Outcome(result.loss.item(), flat)


def _measure(
    contestant: type[Rival], problem: Problem, truth: Outcome, limit: float
) -> tuple[Rival, float]:
    rival = contestant()
    rival.prepare(problem)
    outcome = rival.read(rival.step())
    if outcome.gradient.shape != truth.gradient.shape:
        raise RefusedError(
            f"{contestant.name} in {problem.dtype}: the meta-gradient must have "
            f"{truth.gradient.size} entries, got {outcome.gradient.size}"
        )
    error = float(
        np.linalg.norm(outcome.gradient - truth.gradient) / np.linalg.norm(truth.gradient)
    )
    loss_error = abs(outcome.loss - truth.loss) / abs(truth.loss)
    # "not <=" also refuses NaN.
    if not (error <= limit and loss_error <= limit):
        raise RefusedError(
            f"{contestant.name} in {problem.dtype}: relative error must be at most {limit:.0e}, "
            f"got {error:.1e} in the meta-gradient and {loss_error:.1e} in the loss"
        )
    return rival, error


__all__ = [
    "FLOAT32_LIMIT",
    "FLOAT64_LIMIT",
    "Checker",
    "Errors",
    "RefusedError",
    "UnavailableError",
    "reference",
]
