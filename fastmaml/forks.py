"""What a fork leaves in the child: none of the parent's other threads, and all their locks."""

from __future__ import annotations

import os
import threading
from typing import Any

__all__ = ["is_child", "lock"]

_child = False


def is_child() -> bool:
    """Whether this process was forked, and torch's own threads may be awaited for ever."""
    return _child


def lock() -> Any:
    """A reentrant lock that is free in a forked child, whoever held it at the time."""
    made = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=made._at_fork_reinit)  # type: ignore[attr-defined]
    return made


def _note() -> None:
    global _child
    _child = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
