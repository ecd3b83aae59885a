"""The options of a call, checked once at the door. CONTRIBUTING.md tells how to add one."""

from __future__ import annotations

import math
import numbers
import operator
import sys
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor

from .engine.core import Engine, engine_in_use
from .errors import SettingError, shown
from .losses import Loss, LossArgument, resolve
from .readable import check_place, check_readable

__all__ = [
    "DEFAULTS",
    "BackendChoice",
    "Memory",
    "Options",
    "Precision",
    "Recompute",
    "Settings",
    "check_options",
    "check_precision",
    "check_steps",
    "whole_number",
]

BackendChoice = Literal["auto", "fused", "reference"]
Precision = Literal["float32", "tf32"]
Recompute = bool | Literal["auto"]

_MOST_STEPS = 10_000  # every step is part of the program; more would not fit any machine


class Options(TypedDict, total=False):
    """The keywords of the calls, of which each takes those that mean something to it.

    `fastmaml.meta_step` takes all, and says what they mean. The calls name theirs in their
    signatures, for their readers and for type checkers; a test holds these to this class and to
    `DEFAULTS`.
    """

    loss: LossArgument
    inner_lr: float | Tensor
    inner_steps: int
    first_order: bool
    backend: BackendChoice
    recompute: Recompute
    max_workspace_bytes: int | None
    precision: Precision


DEFAULTS: Options = {
    "loss": "cross_entropy",
    "inner_lr": 0.4,
    "inner_steps": 1,
    "first_order": False,
    "backend": "auto",
    "recompute": "auto",
    "max_workspace_bytes": None,
    "precision": "float32",
}


class Memory(NamedTuple):
    """How much memory the engine may take.

    Attributes:
        recompute: Whether the sweep makes the activations of inner steps again instead of keeping
            them; None decides by bytes.
        limit: Most bytes of workspace and program, or None.
    """

    recompute: bool | None
    limit: int | None


_AUTO = Memory(None, None)


class Settings(NamedTuple):
    """The options of one call, checked, and the engine that is in use for it.

    Attributes:
        loss: The loss of support and query sets.
        inner_lr: Step size of the inner loop: a finite float or a 0-dim floating tensor.
        inner_steps: K >= 0 inner steps.
        first_order: True drops the second derivatives.
        precision: What products of a float32 model may be rounded to.
        backend: What the caller lets run it.
        memory: What the engine may take.
        engine: What "fused" means.
    """

    loss: Loss
    inner_lr: float | Tensor
    inner_steps: int
    first_order: bool
    precision: Precision
    backend: BackendChoice
    memory: Memory
    engine: Engine


def check_options(where: str, options: Options) -> Settings:
    """Check the options of a call.

    Args:
        where: The call that error texts begin with.
        options: Those that the call takes; the others have their defaults.

    Returns:
        The `Settings`. Whether the call can keep to its precision is `check_precision`'s to say.

    Raises:
        SettingError: An option of another kind or out of range, or a call where torch makes no
            ordinary tensors.

    >>> check_options("meta_step", {"loss": "mse", "inner_steps": 2}).inner_steps
    2
    """
    check_place(where)
    given: Options = {**DEFAULTS, **options}
    inner_steps, inner_lr = given["inner_steps"], given["inner_lr"]
    if type(inner_steps) is not int or not 0 <= inner_steps <= _MOST_STEPS:
        inner_steps = check_steps(where, inner_steps)
    if type(inner_lr) is not float or not math.isfinite(inner_lr):
        inner_lr = _rate(where, inner_lr)
    first_order, precision, backend = given["first_order"], given["precision"], given["backend"]
    if type(first_order) is not bool:
        raise SettingError(f"{where}: first_order must be True or False, got {shown(first_order)}.")
    if not isinstance(precision, str) or precision not in ("float32", "tf32"):
        raise SettingError(
            f'{where}: precision must be "float32" or "tf32", got {shown(precision)}; '
            "float64 is the model's own dtype."
        )
    loss = resolve(given["loss"], where)
    memory = _memory(where, given["recompute"], given["max_workspace_bytes"])
    if not isinstance(backend, str) or backend not in ("auto", "fused", "reference"):
        raise SettingError(
            f'{where}: backend must be "auto", "fused" or "reference", got {shown(backend)}.'
        )
    engine = engine_in_use()
    return Settings(loss, inner_lr, inner_steps, first_order, precision, backend, memory, engine)


def _memory(where: str, recompute: Any, limit: Any) -> Memory:
    """True, False or "auto", and a number of bytes, at least 1, or None."""
    automatic = isinstance(recompute, str) and recompute == "auto"
    if automatic and limit is None:
        return _AUTO
    if not automatic and type(recompute) is not bool:
        raise SettingError(
            f'{where}: recompute must be True, False or "auto", got {shown(recompute)}.'
        )
    if limit is not None:
        limit = whole_number(where, "max_workspace_bytes", limit, least=1)
        if limit < 1:
            raise SettingError(f"{where}: max_workspace_bytes must be at least 1, got {limit}.")
        limit = min(limit, sys.maxsize)  # what the core can count to, and no machine has
    return Memory(None if automatic else bool(recompute), limit)


def check_precision(
    where: str, settings: Settings, dtype: torch.dtype, device: torch.device
) -> None:
    """Check that a call can keep to its precision.

    Args:
        where: The call that error texts begin with.
        settings: What `check_options` returned.
        dtype: Of the model's parameters.
        device: Of the model's parameters.

    Raises:
        SettingError: ``"tf32"`` and the reference, or parameters that are not float32 or not on a
            CUDA device.

    >>> settings = check_options("meta_step", {"precision": "float32"})
    >>> check_precision("meta_step", settings, torch.float64, torch.device("cpu"))
    """
    if settings.precision == "float32":
        return
    if settings.backend == "reference":
        raise SettingError(
            f'{where}: precision="tf32" is for the fused engine, got backend="reference"; leave it '
            "out, the reference computes as torch.set_float32_matmul_precision says."
        )
    if dtype is not torch.float32:
        raise SettingError(
            f'{where}: precision="tf32" rounds products of torch.float32 parameters, got {dtype}; '
            'call model.float(), or pass precision="float32".'
        )
    if not settings.engine.on_device(device):
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
