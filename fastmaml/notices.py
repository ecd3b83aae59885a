"""Warnings, at the line of the caller's that led to them."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["warn", "warn_of_reference"]

_HERE = str(Path(__file__).parent) + os.sep
_SAID: WeakKeyDictionary[type, set[str]] = WeakKeyDictionary()


def warn(text: str) -> None:
    """Warn where the package was called from."""
    warnings.warn(text, stacklevel=_level_outside())


def warn_of_reference(where: str, model: nn.Module, error: Exception) -> None:
    """Say once per model class and reason why PyTorch runs."""
    reason = str(error).removeprefix(f"{where}: ").removesuffix('; use backend="reference".')
    reason = reason.removesuffix(".")
    if reason in (said := _SAID.setdefault(type(model), set())):
        return
    said.add(reason)
    warn(f"{where}: {type(model).__name__} runs on the slower PyTorch reference, because {reason}.")


def _level_outside() -> int:
    """The ``stacklevel`` of the caller's code, seen from the function that calls this."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    return level
