"""How much memory a call of the engine may take, and the plan that keeps to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from fastmaml.engine import devices
from fastmaml.errors import SettingError
from fastmaml.settings import Memory

from .binding import CompiledPlan

__all__ = ["Fit", "fit", "most_program_bytes"]

_HOST = torch.device("cpu")
_MOST_TASKS = 1 << 40  # as csrc/engine/plan.cpp has it
_FINISHED = 16 << 20  # bytes of programs that are finished whatever the limit, to say what it needs


class Fit(NamedTuple):
    """A plan and how many threads and tasks at a time it may run with."""

    plan: CompiledPlan
    threads: int
    lanes: int  # 0: as many as threads, or all on a device


def fit(
    where: str,
    compiled: Callable[[bool], CompiledPlan],
    tasks: int,
    threads: int,
    memory: Memory,
    device: torch.device,
    *,
    on_device: bool,
    sweeps: bool,
) -> Fit:
    """The fastest plan within the limit: kept activations first, tasks at a time before threads.

    Args:
        where: The call that error texts begin with.
        compiled: Makes the plan, without and with recomputation.
        tasks: T.
        threads: Of torch.
        memory: What was asked for. Without a limit it is half of the memory of the machine or
            device, beyond which the smallest plan is taken.
        device: That the call runs on.
        on_device: Whether it runs the device's code.
        sweeps: Whether the call goes back through its inner steps at all.

    Returns:
        The `Fit`.

    Raises:
        SettingError: No plan keeps to the limit that was asked for, or no memory holds the tasks.
    """
    if tasks > _MOST_TASKS:
        raise SettingError(
            f"{where}: x must hold at most {_MOST_TASKS} tasks, got {tasks}; make several calls."
        )
    limit = memory.limit if memory.limit is not None else _half_of_memory(device)
    most = tasks if on_device else threads
    ways = (False, True) if memory.recompute is None else (memory.recompute,)
    smallest: tuple[int, int, Fit] | None = None
    for lanes in _fewer(most):
        for recompute in ways if sweeps else (False,):
            candidate = Fit(compiled(recompute), threads, lanes)
            program = candidate.plan.program_bytes(device)
            size = candidate.plan.workspace_bytes(tasks, threads, lanes, device) + program
            if limit is None or size <= limit:
                return candidate
            if smallest is None or size < smallest[0]:
                smallest = size, program, candidate
    assert smallest is not None
    if memory.limit is None:
        return smallest[2]
    more = "" if len(ways) > 1 or ways[0] or not sweeps else ', pass recompute="auto"'
    raise SettingError(
        f"{where}: max_workspace_bytes must be at least {smallest[0]} for this call, "
        f"{smallest[1]} of them for its program, got {memory.limit}; raise it{more} or give fewer "
        "inner steps, tasks, rows a task or threads."
    )


def most_program_bytes(memory: Memory, *, on_device: bool) -> int:
    """Bytes beyond which a program need not be finished; it is written on the host. 0: any."""
    limited = memory.limit is not None and not on_device
    limit = memory.limit if limited else _half_of_memory(_HOST)
    return 0 if limit is None else max(limit, _FINISHED)


def _fewer(most: int) -> Iterator[int]:
    """Tasks at a time: as many as threads (all on a device), then half of that, down to one."""
    yield 0
    while most > 1:
        most //= 2
        yield most


def _half_of_memory(device: torch.device) -> int | None:
    total = devices.total_memory(device)
    if total is not None:
        return total // 2
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None
