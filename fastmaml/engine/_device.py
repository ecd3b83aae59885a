"""What the engine needs to know of torch's devices: streams, memory, and scalars that live there.

Nothing here waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmaml.errors import BackendError

__all__ = [
    "Tables",
    "current_stream",
    "is_capturing",
    "is_still",
    "on_device",
    "scalars",
    "total_memory",
]

DEVICE_CODE = False
"""Whether calls on the CPU run the device's code. Tests set it, with another `binding._C`."""


def on_device(device: torch.device) -> bool:
    """Whether calls on this device run the device's code."""
    return device.type == "cuda" or DEVICE_CODE


def current_stream(device: torch.device) -> int:
    """The handle of the stream that torch works on now; 0 for the CPU."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def is_capturing(device: torch.device) -> bool:
    """Whether the caller is recording a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def total_memory(device: torch.device) -> int | None:
    """Bytes that the device has, or None where nobody knows."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def is_still(rate: Tensor) -> Tensor:
    """Whether a learned rate is nothing to the engine (csrc/plan/scalars.hpp).

    >>> is_still(torch.tensor([0.1, 1e-30, 0.0])).tolist()
    [False, True, True]
    """
    return rate.abs() < torch.finfo(rate.dtype).eps ** 3


def scalars(
    rate: Tensor,
    steps: int,
    tasks: int,
    rows: tuple[int, int],
    dtype: torch.dtype,
    rate_grad: bool,
) -> Tensor:
    """The engine's scalars (see csrc/ops/operand.hpp) from a rate that stays where it is.

    Args:
        rate: The inner learning rate, 0-dim, on the device.
        steps: K.
        tasks: T.
        rows: S and Q.
        dtype: Of the plan.
        rate_grad: Whether the rate's own meta-gradient is wanted.

    Returns:
        ``[4 + 3 K]`` numbers of ``dtype`` on the rate's device, and one more where that is odd.

    >>> scalars(torch.tensor(0.5), 1, 4, (2, 8), torch.float32, False).tolist()
    [1.0, 0.25, -0.5, -0.125, -0.5, -0.5, 1.0, 0.0]
    """
    falling = -rate.detach().to(dtype)
    one = torch.ones_like(falling)
    still = is_still(falling) if rate_grad else torch.zeros_like(falling, dtype=torch.bool)
    step = [falling, torch.where(still, one, falling), torch.where(still, one - 1, one)]
    fixed = [one, one / tasks, *(-one / count for count in rows)]
    padding = [one - 1] * (steps % 2)
    return torch.stack([*fixed, *step * steps, *padding])


class Tables:
    """A program's tables on devices. Each stream has its own: they hold a counter."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        """Keep what gives the bytes, asked on first use."""
        self._make = make
        self._made: dict[tuple[torch.device, int], Tensor] = {}

    def on(self, device: torch.device, stream: int) -> Tensor:
        """The tables for a stream of a device.

        Raises:
            BackendError: The caller records a CUDA graph, and no call has run there before.
        """
        found = self._made.get((device, stream))
        if found is not None:
            return found
        if is_capturing(device):
            # Captured launches do not use the counter, and cannot wait for a copy from the host.
            for (other, _), tables in self._made.items():
                if other == device:
                    return tables
            raise BackendError(
                "a call that is captured in a CUDA graph must have run once before; "
                "call it once on a side stream first, as torch.cuda.graph asks for."
            )
        host = torch.frombuffer(bytearray(self._make()), dtype=torch.uint8)
        tables = self._made[device, stream] = host.to(device)
        return tables
