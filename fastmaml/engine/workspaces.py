"""Workspaces that the engine keeps between calls on the CPU, for all plans.

Fresh memory costs the kernel more than many a call takes, so that a few workspaces stay. They grow
to what the largest calls need, and go when many calls in a row needed far less, or with a plan.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "WORKSPACES",
    "Workspaces",
    "keep_workspace",
    "release_workspaces",
    "take_workspace",
]

_KEPT = 2
_SPARE = 4  # times what a call needs are too much


class Workspaces:
    """Those that no call uses.

    Attributes:
        small: Bytes that one may have whatever calls need.
        patience: After how many calls in a row that had far too much all go.
        idle: They; pop and append are atomic, so that threads never share one.
    """

    def __init__(self, small: int = 16 << 20, patience: int = 64) -> None:
        """None yet."""
        self.small, self.patience = small, patience
        self.idle: list[Tensor] = []
        self._spared = 0  # calls in a row that had too much

    def take(self, size: int, device: torch.device) -> Tensor:
        """A workspace of at least `size` bytes that nobody else uses.

        On a device torch's caching allocator keeps it: what a stream frees, the same stream gets
        again.
        """
        if device.type != "cpu":
            return torch.empty(size, dtype=torch.uint8, device=device)
        try:
            workspace = self.idle.pop()
            room = workspace.numel()
            if room >= size and (room <= self.small or not self._too_much(room, size)):
                return workspace
            del workspace  # before another is made
        except IndexError:
            pass
        return torch.empty(size, dtype=torch.uint8, device="cpu")

    def _too_much(self, room: int, size: int) -> bool:
        """Whether calls have long needed far less than this one; then the others go, too."""
        self._spared = self._spared + 1 if room > _SPARE * size else 0
        if self._spared < self.patience:
            return False
        self._spared = 0
        self.release()
        return True

    def keep(self, workspace: Tensor) -> None:
        """Let a later call have it."""
        if workspace.device.type == "cpu" and len(self.idle) < _KEPT:
            self.idle.append(workspace)

    def release(self) -> None:
        """Give back all that no call uses."""
        self.idle.clear()


WORKSPACES = Workspaces()
"""Those of all plans."""

take_workspace, keep_workspace = WORKSPACES.take, WORKSPACES.keep
release_workspaces = WORKSPACES.release
