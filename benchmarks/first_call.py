"""What a model's first call takes, part by part, and what calls leave behind in memory.

The first call traces the model (torch.fx), plans its program, and runs it. All models here get one
small task, so that the run is short beside the other two; a row's times are the least of several
fresh models. Memory is the growth of the resident set, in one process for all rows.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

import fastmaml
from benchmarks import networks
from benchmarks.memory import resident_bytes
from fastmaml.engine import plan

REPETITIONS = 3
_MIB = 1 << 20


class FirstCall(NamedTuple):
    """Seconds of a first call's parts, and of the second call as a whole."""

    tracing: float
    planning: float
    running: float
    second: float


class _Case(NamedTuple):
    """A kind of model, made anew for every repetition."""

    title: str
    make: Callable[[], nn.Module]
    row: tuple[int, ...]
    inner_steps: int


def _perceptron(layers: int) -> nn.Module:
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(8, 8), nn.ReLU())))


def _conv4() -> nn.Module:
    return networks.omniglot_conv(8, channels=8).module()


def cases(quick: bool = False) -> list[_Case]:
    """The models to time.

    Args:
        quick: The small ones alone.
    """
    resnet = networks.resnet12(8, channels=(4, 4, 4, 4)) if quick else networks.resnet12(8)
    return [
        _Case("ResNet-12", resnet.module, resnet.row, 1),
        *(
            _Case(f"{layers}-layer perceptron", partial(_perceptron, layers), (8,), 1)
            for layers in ((10, 20) if quick else (100, 500, 1000, 2000))
        ),
        *(
            _Case("Conv4", _conv4, (1, 28, 28), steps)
            for steps in ((1, 2) if quick else (1, 10, 100))
        ),
    ]


def _step(model: nn.Module, row: tuple[int, ...], inner_steps: int, *, rows: int = 5) -> None:
    data = torch.randn(1, rows, *row), torch.arange(rows)[None] % 8
    fastmaml.meta_step(model, data, data, inner_lr=0.01, inner_steps=inner_steps, backend="fused")


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add up the time of a function of `fastmaml.engine.plan` meanwhile."""
    function = getattr(plan, name)

    def timed(*args: Any, **settings: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **settings)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    with mock.patch.object(plan, name, timed):
        yield


def time_first_call(case: _Case, repetitions: int = REPETITIONS) -> FirstCall:
    """The parts of the first call, each the least of several models'."""
    found = []
    for _ in range(repetitions):
        model, parts = case.make(), dict[str, float]()
        with _timed(parts, "trace"), _timed(parts, "CompiledPlan"):
            start = time.perf_counter()
            _step(model, case.row, case.inner_steps)
            first = time.perf_counter() - start
        start = time.perf_counter()
        _step(model, case.row, case.inner_steps)
        second = time.perf_counter() - start
        tracing, planning = parts["trace"], parts["CompiledPlan"]
        found.append(FirstCall(tracing, planning, first - tracing - planning, second))
    return FirstCall(*(min(times) for times in zip(*found, strict=True)))


def _dropped(count: int) -> None:
    for _ in range(count):
        _step(_conv4(), (1, 28, 28), 5)


def _alive(count: int) -> list[nn.Module]:
    models = [_conv4() for _ in range(count)]
    for model in models:
        _step(model, (1, 28, 28), 5)
    return models


def _shapes(count: int) -> nn.Module:
    model = _perceptron(20)
    for rows in range(2, count + 2):
        _step(model, (8,), 5, rows=rows)
    return model


def growth(hold: Callable[[int], object], count: int) -> tuple[float, float]:
    """MiB that calls add to the resident set.

    Args:
        hold: Makes the calls, and returns what stays alive.
        count: How many.

    Returns:
        While that lives, and when it has gone.
    """
    before = _held_bytes()
    held = hold(count)
    alive = _held_bytes() - before
    del held
    return alive / _MIB, (_held_bytes() - before) / _MIB


def _held_bytes() -> int:
    """The resident set without what was freed and the allocator keeps, where glibc is asked."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return resident_bytes()


def run(quick: bool = False) -> str:
    """Measure everything.

    Args:
        quick: Small models and few of them, to see that all of it runs.

    Returns:
        Two tables as text.
    """
    lines = [
        f"{'first call, milliseconds':32}{'tracing':>10}{'planning':>10}{'run':>10}{'second':>10}"
    ]
    for case in cases(quick):
        times = time_first_call(case, 1 if quick else REPETITIONS)
        steps = f"{case.inner_steps} step" + ("s" if case.inner_steps > 1 else "")
        columns = "".join(f"{seconds * 1e3:10.1f}" for seconds in times)
        lines.append(f"{case.title + ', ' + steps:32}{columns}")
    lines += ["", f"{'memory that calls leave, MiB':32}{'alive':>10}{'released':>10}"]
    _dropped(2)
    kinds = {
        "Conv4 models, dropped": (_dropped, 1000),
        "Conv4 models, alive": (_alive, 300),
        "row counts of one perceptron": (_shapes, 500),
    }
    for title, (hold, count) in kinds.items():
        count = 3 if quick else count
        alive, released = growth(hold, count)
        lines.append(f"{f'{count} {title}':32}{alive:10.1f}{released:10.1f}")
    return "\n".join(lines)
