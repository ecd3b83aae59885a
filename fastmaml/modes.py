"""Modes of torch's that see its calls, and that an interrupt cannot leave at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["Mode", "within"]


class Mode(TorchFunctionMode):
    """A `TorchFunctionMode` that does nothing unless it is within `within`.

    Ctrl-C may come while torch enters or leaves a mode, which then stays on the thread's stack.
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


@contextmanager
def within(mode: Mode | None) -> Iterator[None]:
    """Run code under a mode."""
    if mode is None:
        yield
        return
    try:
        mode.live = True
        with mode:
            yield
    finally:
        mode.live = False
