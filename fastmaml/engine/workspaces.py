"""Workspaces that the engine keeps between calls on the CPU, for all plans.

Fresh memory costs the kernel more than many a call takes, so that a few workspaces stay. They grow
to what the largest calls need, and go when many calls in a row needed far less, or with a plan.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["keep_workspace", "release_workspaces", "take_workspace"]

_KEPT = 2
_SMALL = 16 << 20  # bytes that may stay whatever calls need
_SPARE = 4  # times what a call needs are too much,
_PATIENCE = 64  # when so many calls in a row need no more

_idle: list[Tensor] = []  # pop and append are atomic, so that threads never share one
_spared = 0  # calls in a row that had too much


def take_workspace(size: int, device: torch.device) -> Tensor:
    """A workspace of at least `size` bytes that nobody else uses.

    On a device torch's caching allocator keeps it: what a stream frees, the same stream gets again.
    """
    if device.type != "cpu":
        return torch.empty(size, dtype=torch.uint8, device=device)
    try:
        workspace = _idle.pop()
        room = workspace.numel()
        if room >= size and (room <= _SMALL or not _too_much(room, size)):
            return workspace
        del workspace  # before another is made
    except IndexError:
        pass
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def _too_much(room: int, size: int) -> bool:
    """Whether calls have long needed far less than this one; then the others go, too."""
    global _spared
    _spared = _spared + 1 if room > _SPARE * size else 0
    if _spared < _PATIENCE:
        return False
    _spared = 0
    release_workspaces()
    return True


def keep_workspace(workspace: Tensor) -> None:
    """Let a later call have it."""
    if workspace.device.type == "cpu" and len(_idle) < _KEPT:
        _idle.append(workspace)


def release_workspaces() -> None:
    """Give back all that no call uses."""
    _idle.clear()
