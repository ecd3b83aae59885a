"""The one door to the compiled module, and the engine as calls use it.

Calls take the `Engine` that is in use where they begin and pass it on with their settings. So does
a plan that is made by itself; nothing else asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch

__all__ = ["CORE", "REASON", "Engine", "engine_in_use", "using"]

REASON = ""  # why there is no core
try:
    from fastmaml import _C as CORE
except ImportError as error:  # a source tree that was not built, or a platform without a wheel
    CORE = None  # type: ignore[assignment]
    REASON = str(error)


@dataclass(frozen=True, eq=False)
class Engine:
    """What runs programs, and what is decided for the planner. Equal to itself alone.

    Calls that users make have the default. Tests look at one choice at a time, or run the device's
    code on the host: see `using`.

    Attributes:
        core: The compiled module.
        device_type: Of the tensors on which it runs the device's code.
        forced: `PlanSettings` by name that plans have whatever is cheaper.
        team: Most blocks that share a task on a device; 0: as many as pay.
        all_threads: Whether calls on the CPU begin when all their threads are there.
        most_plan_bytes: Of all plans and traces together, beyond which the oldest go.
    """

    core: Any = CORE
    device_type: str = "cuda"
    forced: Mapping[str, Any] = field(default_factory=dict)
    team: int = 0
    all_threads: bool = False
    most_plan_bytes: int = 256 << 20

    def on_device(self, device: torch.device) -> bool:
        """Whether calls on this device run the device's code."""
        return device.type == self.device_type


_DEFAULT = Engine()
_IN_USE: ContextVar[Engine] = ContextVar("engine", default=_DEFAULT)


def engine_in_use() -> Engine:
    """The engine of calls that begin here."""
    return _IN_USE.get()


@contextmanager
def using(**changed: Any) -> Iterator[Engine]:
    """Let calls inside, of this thread, have an engine that differs by these attributes.

    >>> with using(forced={"factored": 0}, team=2):
    ...     engine_in_use().team
    2
    """
    token = _IN_USE.set(replace(_IN_USE.get(), **changed))
    try:
        yield _IN_USE.get()
    finally:
        _IN_USE.reset(token)
