"""What a model's forward and a loss returned, where they ran in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmaml.errors import DeviceError, DtypeError, SettingError, ShapeError
from fastmaml.losses import Loss
from fastmaml.tasks import Tasks, check_output

__all__ = ["check_logits", "check_loss", "check_tensor"]


def check_logits(where: str, tasks: Tasks, loss: Loss, rows: int, logits: Any) -> None:
    """Check the output of a forward.

    Args:
        where: The call that error texts begin with.
        tasks: The data.
        loss: The loss; a callable judges values and targets itself.
        rows: How many rows the model was given.
        logits: What it returned for them.

    Raises:
        ShapeError: It is no tensor, or has another number of rows or does not fit the targets.
        DtypeError: It holds no floating-point numbers, and the loss needs some.
        DeviceError: It is on another device than the data.
        SettingError: It is not dense, or a class index is out of range.
    """
    check_tensor(where, logits, tasks.support_x.device)
    if (loss.op is not None or loss.classifies) and not logits.is_floating_point():
        raise DtypeError(
            f"{where}: the model must return floating-point numbers for {loss.name}, got "
            f"{logits.dtype}; call .float() on its output, or pass a callable loss."
        )
    check_output(where, tasks, loss, rows, tuple(logits.shape))


def check_loss(where: str, tasks: Tasks, value: Any) -> None:
    """Check what a loss returned for one task.

    Raises:
        ShapeError: It is no 0-dim tensor.
        DtypeError: It is no floating-point number.
        DeviceError: It is on another device than the data.
        SettingError: It is not dense.
    """
    if not isinstance(value, Tensor) or value.dim() != 0:
        came = list(value.shape) if isinstance(value, Tensor) else _named(value)
        raise ShapeError(
            f"{where}: loss must return a 0-dim tensor per task, got {came}; "
            "reduce it with .mean() or .sum()."
        )
    _check_storage(where, "the loss", value, tasks.support_x.device)
    if not value.is_floating_point():
        raise DtypeError(
            f"{where}: loss must return a real floating-point number, got {value.dtype}; "
            "compute it from the model's output in floating point, and take the real part."
        )


def check_tensor(where: str, output: Any, device: torch.device) -> None:
    """Check that a forward returned one dense tensor, on the data's device.

    Raises:
        ShapeError: It is no tensor.
        DeviceError: It is on another device.
        SettingError: It is not dense.
    """
    if not isinstance(output, Tensor):
        raise ShapeError(
            f"{where}: the model must return one tensor, got {_named(output)}; give a module whose "
            "forward returns the tensor that the loss needs, if several joined with torch.cat."
        )
    _check_storage(where, "the model's output", output, device)


def _check_storage(where: str, what: str, tensor: Tensor, device: torch.device) -> None:
    """The device and layout that the data have."""
    if tensor.layout is not torch.strided:
        raise SettingError(
            f"{where}: {what} must be a dense tensor, got {tensor.layout}; call .to_dense()."
        )
    if tensor.device != device:
        raise DeviceError(
            f"{where}: {what} must be on {device} like the data, got {tensor.device}; "
            f'call .to("{device}").'
        )


def _named(value: Any) -> str:
    """The type of a value, and of what a tuple, list or dict holds."""
    kind = type(value).__name__
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (tuple, list, dict)) or not 0 < len(value) <= 8:
        return kind
    return f"{kind} of ({', '.join(type(item).__name__ for item in items)})"
