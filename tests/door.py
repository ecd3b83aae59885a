"""Small batches of tasks at the door, for its tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastmaml.losses import resolve
from fastmaml.tasks import Tasks, validate

T, S, Q = 4, 3, 5
CPU = torch.device("cpu")


def inputs(rows: int, tasks: int = T, row: tuple[int, ...] = (1, 8), **options: Any) -> Tensor:
    return torch.zeros(tasks, rows, *row, **options)


def classes(rows: int, tasks: int = T) -> Tensor:
    return torch.zeros(tasks, rows, dtype=torch.int64)


def check(
    support: Any,
    query: Any,
    loss: str = "cross_entropy",
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Tasks:
    return validate("meta_step", support, query, dtype=dtype, device=device, loss=resolve(loss))


def refused(kind: type[Exception], text: str, call: Callable[[], object]) -> None:
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        call()


GOOD = (inputs(S), classes(S))
GOOD_QUERY = (inputs(Q), classes(Q))
