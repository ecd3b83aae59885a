"""Check first: a loop is timed once its steps are those of the definition.

The loop says which tasks its next step draws, makes the step, and shows where it came from and to.
The truth takes the same step on the same tasks: the reference's meta-gradient in float64 and
torch's Adam. In float64 the gradient that went into Adam's means and the way that the parameters
went must agree to rounding; the way by a wider limit, since where the gradient is 0 but for
rounding (a bias before batch norm) Adam divides the rounding by 1e-8. Every step starts from the
loop's own state: several steps in a row would say little in float32, since Adam goes as far for a
gradient of 1e-6 as the other way for one of -1e-6. There the gradient is held to the limit of the
workload's meta-gradient with the allowance that rivals get (`benchmarks.check` says why), as the
drawn tasks are not picked to be far from kinks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from benchmarks.check import FLOAT64_LIMIT, RIVAL_ALLOWANCE, Errors, RefusedError, reference
from benchmarks.loops.base import Loop, State, Tasks
from benchmarks.loops.contestants import Contestant
from benchmarks.loops.workloads import META_LR, LoopWorkload
from benchmarks.rivals.base import flatten
from benchmarks.workloads import Array, Problem, make_problem

STEPS = 3
WAY_LIMIT = 1e-6
# Of Adam's running means, torch's default.
BETA = 0.9


def admit(contestant: Contestant, loop: LoopWorkload) -> tuple[Loop, Errors]:
    """Check a contestant in both dtypes.

    Args:
        contestant: Who is checked.
        loop: The loop that will be timed; the float64 check draws `check_tasks` of its workload.

    Returns:
        The float32 loop after the check, whose scans, if it has any, are one step long, and the
        worst errors of its steps' meta-gradients.

    Raises:
        RefusedError: It trains something else.
        UnavailableError: It cannot take part.
    """
    short = replace(loop, scan=1)
    few = replace(loop.workload, tasks=loop.workload.check_tasks)
    _, error64 = _measure(contestant, replace(short, workload=few), "float64", FLOAT64_LIMIT)
    limit = RIVAL_ALLOWANCE * loop.workload.float32_limit
    ready, error32 = _measure(contestant, short, "float32", limit)
    return ready, Errors(error64, error32)


def _measure(
    contestant: Contestant, loop: LoopWorkload, dtype: str, limit: float
) -> tuple[Loop, float]:
    """The loop after its steps and its worst error."""
    runner = contestant.make()
    runner.prepare(loop, dtype)
    problem = make_problem(loop.workload, "float64")
    _same_start(contestant.name, runner.state(), problem)
    worst = 0.0
    for done in range(STEPS):
        before, tasks = runner.state(), runner.coming()
        runner.run(1)
        after, truth = runner.state(), step(problem, before, tasks, done)
        error = _error(*(s.means - BETA * before.means for s in (after, truth)))
        way = _error(*(s.parameters - before.parameters for s in (after, truth)))
        # "not <=" also refuses NaN.
        if not (error <= limit and (dtype == "float32" or way <= WAY_LIMIT)):
            raise RefusedError(
                f"{contestant.name} in {dtype}: relative error must be at most {limit:.0e} in the "
                f"meta-gradient, in float64 {WAY_LIMIT:.0e} in the way of the parameters, got "
                f"{error:.1e} and {way:.1e} in step {done + 1}"
            )
        worst = max(worst, error)
    return runner, worst


def _same_start(name: str, start: State, problem: Problem) -> None:
    """Refuse a loop that starts elsewhere: all train one network from the same parameters."""
    if not np.array_equal(start.parameters, flatten(list(problem.parameters.values()))):
        raise RefusedError(f"{name}: the loop must start from the workload's parameters")


def step(problem: Problem, before: State, tasks: Tasks, done: int) -> State:
    """The truth: one step with the reference's meta-gradient and torch's Adam, in float64.

    Args:
        problem: Shapes and settings; its own numbers are not used.
        before: Where the step starts.
        tasks: What it is taken on.
        done: Steps before it.
    """
    theta, means, squares = (
        _pieces(problem, part) for part in (before.parameters, before.means, before.squares)
    )
    data = {"support": _exact(tasks[0]), "query": _exact(tasks[1])}
    now = {name: p.numpy() for name, p in theta.items()}
    threads = torch.get_num_threads()
    # Threads would not shorten so many small operations, and wait for each other beside others.
    torch.set_num_threads(1)
    gradient = reference(replace(problem, parameters=now, **data)).gradient
    torch.set_num_threads(threads)
    optimizer = torch.optim.Adam(theta.values(), META_LR)
    for name, g in _pieces(problem, gradient).items():
        theta[name].grad = g
        optimizer.state[theta[name]] = {
            "step": torch.tensor(float(done)),
            "exp_avg": means[name],
            "exp_avg_sq": squares[name],
        }
    optimizer.step()
    parts = [[p.numpy() for p in part.values()] for part in (theta, means, squares)]
    return State(*(flatten(part) for part in parts))


def _pieces(problem: Problem, flat: Array) -> dict[str, torch.Tensor]:
    """A flat vector as tensors of the parameters' names and shapes, with memory of their own."""
    found, first = {}, 0
    for name, parameter in problem.parameters.items():
        piece = flat[first : first + parameter.size]
        found[name] = torch.from_numpy(piece.reshape(parameter.shape).copy())
        first += parameter.size
    return found


def _exact(batch: tuple[Array, Array]) -> tuple[Array, Array]:
    x, y = (part if part.dtype.kind == "i" else part.astype(np.float64) for part in batch)
    return x, y


def _error(found: Array, truth: Array) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
