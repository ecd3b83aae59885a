"""How many threads the fused engine may use on the CPU."""

from __future__ import annotations

import torch

from .engine import binding
from .errors import SettingError
from .settings import whole_number

__all__ = ["get_num_threads", "set_num_threads"]

_number: int | None = None


def set_num_threads(number: int | None) -> None:
    """Set how many threads the fused engine may use on the CPU, apart from torch's own.

    Torch's pool spins for milliseconds after each of its parallel regions, and in each waits for
    all of its threads: beside another busy process a loop over small tensors is many times faster
    with ``torch.set_num_threads(1)``. This keeps the engine's threads, which it waits for only
    once they have begun, and uses only where calls are measured to gain from them. Results do not
    depend on the number.

    Args:
        number: At least 1; None follows ``torch.get_num_threads()``, as at first.

    Raises:
        SettingError: Anything else.

    >>> set_num_threads(2)
    >>> set_num_threads(None)
    """
    global _number
    if number is not None:
        number = whole_number("set_num_threads", "number", number, least=1)
        if number < 1:
            raise SettingError(f"set_num_threads: number must be at least 1, got {number}.")
    _number = number


def get_num_threads() -> int:
    """Most threads that a call of the fused engine uses on the CPU.

    Returns:
        What `set_num_threads` said, else torch's number; but no more than the processors that the
        process may keep busy, by its affinity and by the quota of its control groups.

    >>> 1 <= get_num_threads()
    True
    """
    wanted = torch.get_num_threads() if _number is None else _number
    return wanted if wanted == 1 else min(wanted, binding.usable_processors())
