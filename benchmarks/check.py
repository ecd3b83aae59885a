"""Check first: nobody is timed who does not compute the meta-gradient.

The truth is the reference in float64. Float64 runs must agree to rounding: that is the check of the
formula, and every form passes it before anything else is looked at. The same code then runs in
float32 and is compared with the same truth. Where a pre-activation lies within rounding of a ReLU's
kink, or two numbers under a max-pool within rounding of each other, float32 may take the other
branch, and its gradient jumps though no formula is wrong; several inner steps amplify the jump.
Seeds keep small networks clear of that; millions of pre-activations cross some kink with any seed.
Two rules follow. Float32 errors are compared with each other only between forms that passed in
float64. And a workload's `float32_limit`, chosen by the error of torch's plain loop where kinks are
quiet, binds fastmaml: rounding that crosses many more kinks than torch's own is a fault, and is
refused. The rivals, whose float32 is not ours to judge, get `RIVAL_ALLOWANCE` times as much, lest
the fastest of them be missing for a kink that its order of sums happened to cross.
On ResNet-12 that says little: moving the parameters of its float64 run by 2^-22 of themselves moves
the exact meta-gradient by 1 to 17% (seeds 0 to 2), and torch's loop in float32 is 2 to 11% off. Its
proof is the float64 check; in float32 the loss, which no kink moves far, must be right as well.

A form whose float64 run says that a step of the workload would take minutes is not run on it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.rivals.base import Outcome, Rival, UnavailableError
from benchmarks.rivals.ours import Fastmaml
from benchmarks.rivals.pytorch import PytorchLoop
from benchmarks.workloads import Problem, Workload, make_problem

FLOAT64_LIMIT = 1e-9
# The loss is continuous at every kink, whatever its workload's limit for gradients.
LOSS_LIMIT = 1e-2
# What a rival's float32 meta-gradient may be off, in workload limits. The widest seen of forms
# right to 1e-14 in float64 is 6.9 (JAX, 20-way Omniglot, five inner steps).
RIVAL_ALLOWANCE = 10.0
# A step that takes longer than this and than all rounds of its workload may is not run in float32.
SLOWEST_STEP_SECONDS = 120.0


class TooSlowError(Exception):
    """A contestant is right and would take minutes; the text says how many seconds."""


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
        device: Where the contestants run; the truths are the CPU's.
    """

    def __init__(self, workload: Workload, device: str = "cpu") -> None:
        """Compute the truths."""
        self._problem = make_problem(workload, "float32", device)
        few = replace(workload, tasks=workload.check_tasks)
        self._problem64 = make_problem(few, "float64", device)
        self._truth64 = reference(replace(self._problem64, device="cpu"))
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
            TooSlowError: It computes the truth in float64, but slowly.
            UnavailableError: It cannot take part.
        """
        _, error64, seconds = _measure(contestant, self._problem64, self._truth64, FLOAT64_LIMIT)
        workload = self._problem.workload
        expected = seconds * workload.tasks / workload.check_tasks
        if expected > max(SLOWEST_STEP_SECONDS, workload.seconds):
            raise TooSlowError(f"a step would take about {expected:.0f} s")
        allowance = 1.0 if contestant is Fastmaml else RIVAL_ALLOWANCE
        ready, error32, _ = _measure(
            contestant, self._problem, self._truth, allowance * workload.float32_limit
        )
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
) -> tuple[Rival, float, float]:
    """The prepared contestant, its error and the seconds of one step."""
    rival = contestant()
    rival.prepare(problem)
    start = time.perf_counter()
    result = rival.step()
    if problem.device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    outcome = rival.read(result)
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
    if not (error <= limit and loss_error <= min(limit, LOSS_LIMIT)):
        raise RefusedError(
            f"{contestant.name} in {problem.dtype}: relative error must be at most {limit:.0e}, "
            f"in the loss {min(limit, LOSS_LIMIT):.0e}, got {error:.1e} in the meta-gradient and "
            f"{loss_error:.1e} in the loss"
        )
    return rival, error, seconds


__all__ = [
    "FLOAT64_LIMIT",
    "Checker",
    "Errors",
    "RefusedError",
    "TooSlowError",
    "UnavailableError",
    "reference",
]
