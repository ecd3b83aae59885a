"""Operations of torch's that cannot be derived twice: another kernel where there is one, or advice.

Attention is: torch's fused kernels have no second derivative, its formula (the math kernel) has.
Which kernel runs is a setting of the whole process; it is changed while a call needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import nn

from fastmaml import forks
from fastmaml.errors import UnsupportedModelError
from fastmaml.modes import all_at_once

__all__ = ["derived_twice"]

_Result = TypeVar("_Result")

# By kernel: what asks whether it may run, what lets it, and whether it may where the formula must.
_KERNELS: list[tuple[Callable[[], bool], Callable[[bool], None], bool]] = [
    (
        getattr(torch._C, f"_get_{kernel}_sdp_enabled"),
        getattr(torch._C, f"_set_sdp_use_{kernel}"),
        kernel == "math",
    )
    for kernel in ("math", "flash", "mem_efficient", "cudnn")
]
_LOCK = forks.lock()  # of the next two, never held while anything runs
_users: set[object] = set()
_before: list[bool] = []  # what was set before the first of them came

_need_formula: WeakSet[nn.Module] = WeakSet()  # models whose attention torch's kernels failed


def derived_twice(
    where: str, model: nn.Module, run: Callable[[], _Result], *, twice: bool = True
) -> _Result:
    """Run what derives twice; with attention by its formula where torch's kernel cannot.

    Args:
        where: The call that error texts begin with.
        model: Whose attention it is; it is remembered.
        run: What to run; it is run again where a kernel fails.
        twice: Whether it is sure to derive twice.

    Raises:
        UnsupportedModelError: An operation has no second derivative; the text names it.
    """
    if not (twice and model in _need_formula):
        try:
            return run()
        except (RuntimeError, NotImplementedError) as error:
            if "scaled_dot_product" not in str(error):
                raise _advice(where, error) from error
        _need_formula.add(model)
    user = object()
    try:
        try:
            _want_formula(user)
            return run()
        except (RuntimeError, NotImplementedError) as error:
            raise _advice(where, error) from error
        finally:
            _leave(user)
    except KeyboardInterrupt:
        _leave(user)  # which may be what was interrupted
        raise


def _want_formula(user: object) -> None:
    """Attention by its formula, until the last user leaves."""
    with _LOCK:
        if not _users:
            _before[:] = [enabled() for enabled, _, _ in _KERNELS]
        _users.add(user)
        all_at_once([partial(enable, formula) for _, enable, formula in _KERNELS])


def _leave(user: object) -> None:
    """Need it no more; to be called again where an interrupt may have ended it early."""
    with _LOCK:
        if _users == {user}:
            kernels = zip(_KERNELS, _before, strict=True)
            all_at_once([partial(enable, then) for (_, enable, _), then in kernels])
        _users.discard(user)


def _advice(where: str, error: Exception) -> Exception:
    missing = re.search(
        r"derivative for (?:aten::)?(\w+?)(?:_backward)? is not implemented", str(error)
    )
    if missing is None:
        return error
    return UnsupportedModelError(
        f"{where}: torch has no second derivative of `{missing[1]}`, which the model or the loss "
        "uses; pass first_order=True, or compute it from other operations."
    )
