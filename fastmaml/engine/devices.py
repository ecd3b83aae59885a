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
    "scalars",
    "total_memory",
]


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


def scalars(table: list[tuple[float, int]], rate: Tensor, dtype: torch.dtype) -> Tensor:
    """A call's scalars from a rate that stays where it is.

    Args:
        table: What they are: a number and -1, or a number and the inner step whose rate it is
            multiplied with (``Plan.scalars`` of the engine).
        rate: The inner learning rate of every step, 0-dim, on the device.
        dtype: Of the plan.

    Returns:
        ``[len(table)]`` numbers of ``dtype`` on the rate's device, and one more where that is odd.

    >>> scalars([(1.0, -1), (0.25, -1), (-1.0, 0)], torch.tensor(0.5), torch.float32).tolist()
    [1.0, 0.25, -0.5, 0.0]
    """
    alpha = rate.detach().to(dtype)
    made: dict[tuple[float, bool], Tensor] = {}
    for number, step in [*table, (0.0, -1)]:
        of_rate = step >= 0
        if (number, of_rate) not in made:
            made[number, of_rate] = alpha * number if of_rate else torch.full_like(alpha, number)
    padding = [made[0.0, False]] * (len(table) % 2)
    return torch.stack([*(made[number, step >= 0] for number, step in table), *padding])


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
