"""How torch's contestants draw a step's tasks, and the image set that everybody draws from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.loops.workloads import SEED, LoopWorkload
from benchmarks.rivals.base import Batch
from benchmarks.workloads import SQUARE, Workload
from fastmaml.data import OmniglotTasks

Episode = tuple[Batch, Batch]
# Share of a class's pixels with ink, and of a drawing's pixels that differ from its class's.
INK, NOISE = 0.3, 0.1


def drawer(loop: LoopWorkload, dtype: torch.dtype) -> Callable[[], Episode]:
    """The function that draws one step's tasks from torch's global generator.

    Args:
        loop: Says what is drawn.
        dtype: Of the drawn numbers.
    """
    if loop.workload.loss == "mse":
        return lambda: sinusoids(loop.workload, dtype)
    ways = loop.workload.network.outputs
    source = OmniglotTasks(
        images(loop),
        ways=ways,
        shots=loop.workload.support_rows // ways,
        query=loop.workload.query_rows // ways,
        flat=not loop.workload.network.is_convolutional,
    )

    def draw() -> Episode:
        (sx, sy), (qx, qy) = source.sample(loop.workload.tasks, torch.default_generator)
        return (sx.to(dtype), sy), (qx.to(dtype), qy)

    return draw


def sinusoids(workload: Workload, dtype: torch.dtype) -> Episode:
    """Tasks as the README's loop draws them: as many query points as support points."""
    tasks, shots = workload.tasks, workload.support_rows
    x = torch.empty(2, tasks, shots, 1, dtype=dtype).uniform_(-5, 5)
    amplitude = torch.empty(tasks, 1, 1, dtype=dtype).uniform_(0.1, 5)
    phase = torch.empty(tasks, 1, 1, dtype=dtype).uniform_(0, torch.pi)
    y = amplitude * torch.sin(x - phase)
    support, query = zip(x, y, strict=True)
    return support, query


def images(loop: LoopWorkload) -> npt.NDArray[np.uint8]:
    """A set of drawings of Omniglot's shape: a class is a pattern of squares, a drawing has noise.

    Returns:
        uint8 [classes, drawings, H, W], ink 1.
    """
    rng = np.random.default_rng(SEED)
    pixels = int(np.prod(loop.workload.network.row))
    side = int(np.sqrt(pixels))
    coarse = -(-side // SQUARE)
    patterns = rng.random((loop.classes, 1, coarse, coarse), np.float32) < INK
    patterns = patterns.repeat(SQUARE, 2).repeat(SQUARE, 3)[..., :side, :side]
    flips = rng.random((loop.classes, loop.drawings, side, side), np.float32) < NOISE
    return (patterns ^ flips).astype(np.uint8)


def turned(drawings: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The drawings in their four rotations, one row [H, W] each: rotation, class, drawing."""
    turns = [np.rot90(drawings, turn, axes=(-2, -1)) for turn in range(4)]
    return np.stack(turns).reshape(-1, *drawings.shape[2:])
