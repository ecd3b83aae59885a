"""Settings of torch's that a call needs for a while, and that an interrupt cannot leave behind.

Python raises KeyboardInterrupt where a function of its own begins, where a loop goes on, and after
calls. A context manager in Python can thus be left before its ``__exit__`` has done anything; what
stands first in a ``finally`` is done, and so is what one call of a C function does.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Mode", "all_at_once", "autograd_mode", "grad_mode", "within"]

_Result = TypeVar("_Result")


class Mode(TorchFunctionMode):
    """A `TorchFunctionMode` that does nothing unless it is within `within`.

    One that the model's forward enters and leaves behind may be in the place of this on the stack,
    and this then stays there.
    """

    live = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Look at a call while alive, else let it pass."""
        if self.live:
            return self.call(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of torch's."""
        return func(*args, **kwargs)


def within(mode: Mode | None, run: Callable[..., _Result], *args: Any) -> _Result:
    """Call a function under a mode."""
    if mode is None:
        return run(*args)
    depth, there = torch._C._len_torch_function_stack(), True
    try:
        torch._C._push_on_torch_function_stack(mode)
        mode.live = True
        return run(*args)
    except KeyboardInterrupt as error:
        _end_suspended(error)
        # Torch may have been interrupted between taking it away and putting it back.
        there = torch._C._len_torch_function_stack() > depth
        raise
    finally:
        mode.live = False
        if there:
            torch._C._pop_torch_function_stack()


def _end_suspended(error: BaseException) -> None:
    """End context managers that an interrupt left before they were told to, now and not some day.

    Generators wait for their end within the traceback. One of torch's takes a mode away while it
    looks at a call, another counts levels of vmap.
    """
    traceback.clear_frames(error.__traceback__)


def grad_mode() -> AbstractContextManager[Any]:
    """Let autograd record, whatever the caller's mode.

    Whatever is left of other settings of autograd's within goes with it.
    """
    return autograd_mode(inference=False)


def autograd_mode(inference: bool) -> AbstractContextManager[Any]:
    """Inference mode, or an ordinary one in which autograd records, until the block ends."""
    guard: AbstractContextManager[Any] = torch._C._InferenceMode(inference)
    return guard


def all_at_once(actions: list[partial[Any]]) -> None:
    """Call one after another, none of which is Python's code, with no interrupt in between."""
    deque(map(partial.__call__, actions), maxlen=0)
