"""Interleaved timing: a round visits every contestant, so a slow moment of the machine hits all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# A visit lasts at least this long, so that the clock and a single interrupt do not matter.
VISIT_SECONDS = 0.02
# A visit starts with an untimed step, which brings the contestant's data into the caches and its
# threads out of sleep; a step this long does that by itself.
LONG_STEP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of the rounds, and the smallest."""

    median: float
    lower: float
    upper: float
    best: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        """The spread of some values, in their unit."""
        lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
        return Spread(float(median), float(lower), float(upper), min(values))


# Seconds per step of a step that is made so many times.
Visit = Callable[[Callable[[], object], int], float]


def screen(
    steps: Mapping[str, Callable[[], object]], visits: Mapping[str, Visit] | None = None
) -> dict[str, float]:
    """Seconds per step of each contestant, roughly: the best of a few steps.

    Args:
        steps: One meta-step each.
        visits: How each is timed; by the wall clock unless given.
    """
    seconds = {}
    for name, step in steps.items():
        visit = visits[name] if visits else wall_clock
        seconds[name] = visit(step, 1)
        if seconds[name] < LONG_STEP_SECONDS:
            seconds[name] = min(visit(step, 1) for _ in range(3))
    return seconds


def interleave(
    steps: Mapping[str, Callable[[], object]],
    seconds: Mapping[str, float],
    rounds: int,
    visits: Mapping[str, Visit] | None = None,
) -> dict[str, list[float]]:
    """Time contestants in turns.

    Args:
        steps: One meta-step each.
        seconds: Rough seconds per step, from `screen`.
        rounds: Visits per contestant.
        visits: How each is timed; by the wall clock unless given.

    Returns:
        Seconds per step of every round; index r of all lists was measured side by side.
    """
    counts = {name: max(1, int(VISIT_SECONDS / seconds[name])) for name in steps}
    times: dict[str, list[float]] = {name: [] for name in steps}
    was_enabled = gc.isenabled()
    try:
        for _ in range(rounds):
            gc.collect()
            gc.disable()
            for name, step in steps.items():
                if seconds[name] < LONG_STEP_SECONDS:
                    step()
                visit = visits[name] if visits else wall_clock
                times[name].append(visit(step, counts[name]))
            gc.enable()
    finally:
        if was_enabled:
            gc.enable()
        else:
            gc.disable()
    return times


def wall_clock(step: Callable[[], object], count: int) -> float:
    """Time a step that is done when it returns."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count
