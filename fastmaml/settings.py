"""The settings of a call, checked once at the door."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .engine import _device
from .errors import SettingError, shown
from .losses import Loss, LossArgument, resolve
from .readable import check_place, check_readable

__all__ = [
    "Precision",
    "Settings",
    "check_precision",
    "check_settings",
    "check_steps",
    "whole_number",
]

Precision = Literal["float32", "tf32"]

_MOST_STEPS = 10_000  # every step is part of the program; more would not fit any machine


class Settings(NamedTuple):
    """The settings of one meta-step.

    Attributes:
        loss: The loss of support and query sets.
        inner_lr: Step size of the inner loop: a finite float or a 0-dim floating tensor.
        inner_steps: K >= 0 inner steps.
        first_order: True drops the second derivatives.
        precision: What products of a float32 model may be rounded to.
    """

    loss: Loss
    inner_lr: float | Tensor
    inner_steps: int
    first_order: bool
    precision: Precision = "float32"


def check_settings(
    where: str,
    loss: LossArgument,
    inner_lr: float | Tensor,
    inner_steps: int,
    first_order: bool,
    precision: Precision = "float32",
) -> Settings:
    """Check the settings of a call.

    Args:
        where: The call that error texts begin with.
        loss: See `fastmaml.losses.resolve`.
        inner_lr: A finite number or 0-dim floating-point tensor.
        inner_steps: See `check_steps`; 0 is the plain query gradient.
        first_order: True or False.
        precision: "float32" or "tf32"; whether the call can keep to it is `check_precision`'s.

    Returns:
        The `Settings`.

    Raises:
        SettingError: Whatever of the above does not hold, or a call where torch makes no ordinary
            tensors.

    >>> check_settings("meta_step", "mse", 0.1, 2, False).inner_steps
    2
    """
    check_place(where)
    if type(inner_steps) is not int or not 0 <= inner_steps <= _MOST_STEPS:
        inner_steps = check_steps(where, inner_steps)
    if type(inner_lr) is not float or not math.isfinite(inner_lr):
        inner_lr = _rate(where, inner_lr)
    if type(first_order) is not bool:
        raise SettingError(f"{where}: first_order must be True or False, got {shown(first_order)}.")
    if not isinstance(precision, str) or precision not in ("float32", "tf32"):
        raise SettingError(
            f'{where}: precision must be "float32" or "tf32", got {shown(precision)}; '
            "float64 is the model's own dtype."
        )
    return Settings(resolve(loss, where), inner_lr, inner_steps, first_order, precision)


def check_precision(
    where: str, precision: Precision, dtype: torch.dtype, device: torch.device, backend: str
) -> None:
    """Check that a call can keep to its precision.

    Args:
        where: The call that error texts begin with.
        precision: Of the `Settings`.
        dtype: Of the model's parameters.
        device: Of the model's parameters.
        backend: What the caller chose.

    Raises:
        SettingError: ``"tf32"`` and the reference, or parameters that are not float32 or not on a
            CUDA device.

    >>> check_precision("meta_step", "float32", torch.float64, torch.device("cpu"), "auto")
    """
    if precision == "float32":
        return
    if backend == "reference":
        raise SettingError(
            f'{where}: precision="tf32" is for the fused engine, got backend="reference"; leave it '
            "out, the reference computes as torch.set_float32_matmul_precision says."
        )
    if dtype is not torch.float32:
        raise SettingError(
            f'{where}: precision="tf32" rounds products of torch.float32 parameters, got {dtype}; '
            'call model.float(), or pass precision="float32".'
        )
    if not _device.on_device(device):
        raise SettingError(
            f'{where}: precision="tf32" needs a CUDA device, got parameters on {device}; '
            'call model.cuda(), or pass precision="float32".'
        )


def check_steps(where: str, value: Any) -> int:
    """A number of inner steps as int.

    Args:
        where: The call that error texts begin with.
        value: An integer >= 0 of any type that can be an index, numpy's too, but no bool.

    Returns:
        The number.

    Raises:
        SettingError: It is no integer, negative, or more than a program can hold.

    >>> check_steps("meta_step", 3)
    3
    """
    steps = whole_number(where, "inner_steps", value, least=0)
    if not 0 <= steps <= _MOST_STEPS:
        raise SettingError(
            f"{where}: inner_steps must be between 0 and {_MOST_STEPS}, got {steps}; "
            "0 is the plain query gradient."
        )
    return steps


def whole_number(where: str, name: str, value: Any, *, least: int) -> int:
    """A setting that counts something, as int; whether it is in range is the caller's to say.

    Args:
        where: The call that error texts begin with.
        name: The setting.
        value: An integer of any type that can be an index, numpy's too, but no bool.
        least: The smallest that makes sense, for the text.

    Returns:
        The number.

    Raises:
        SettingError: It is no integer.

    >>> whole_number("meta_step", "inner_steps", 3, least=0)
    3
    """
    try:
        if isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool:
            raise TypeError
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # whatever an array or tensor raises
        raise SettingError(
            f"{where}: {name} must be an integer >= {least}, got {shown(value)}; pass an int."
        ) from None


def _rate(where: str, value: Any) -> float | Tensor:
    """A number of any type as float; a tensor stays what it is."""
    if isinstance(value, Tensor):
        check_readable(where, "inner_lr", value)
        # With numbers of 8 bits torch does not compute.
        if value.dim() != 0 or not value.is_floating_point() or value.element_size() == 1:
            raise SettingError(
                f"{where}: inner_lr must be a number or a 0-dim floating-point tensor, got a "
                f"tensor {list(value.shape)} of {value.dtype}."
            )
        if value.is_meta:
            raise SettingError(
                f"{where}: inner_lr must have a value, got a tensor on meta; pass a number."
            )
        # Looking at a number on a device would wait for it: its losses tell if it is not finite.
        number = 0.0 if value.is_cuda else float(value.detach())
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise SettingError(
            f"{where}: inner_lr must be a number or a 0-dim floating-point tensor, "
            f"got {type(value).__name__}."
        )
    else:
        try:
            number = value = float(value)
        except OverflowError:
            number = math.inf if value > 0 else -math.inf
    if not math.isfinite(number):
        raise SettingError(f"{where}: inner_lr must be finite, got {number}.")
    result: float | Tensor = value
    return result
