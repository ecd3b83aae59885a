"""The exceptions that fastmaml raises on purpose.

Every text reads *where: what must hold, what came, what to do* and is composed from the compared
values. Each class also derives from the builtin that Python programmers would catch, so
``except ValueError`` keeps working.
"""

from __future__ import annotations

import reprlib
from typing import Any

__all__ = [
    "BackendError",
    "DeviceError",
    "DtypeError",
    "InternalError",
    "SettingError",
    "ShapeError",
    "UnsupportedModelError",
    "shown",
]

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = _SHORT.maxlong = 60


def shown(value: Any) -> str:
    """A value as error texts show it: on one line, and short.

    >>> shown(2.0), shown("a" * 100)[-4:]
    ('2.0', "aaa'")
    """
    return " ".join(_SHORT.repr(value).split())


class ShapeError(ValueError):
    """Sizes that do not fit together: ranks, task counts, row counts, feature counts."""


class DtypeError(TypeError):
    """A tensor of another dtype than the model and the loss need; the text names the cast."""


class DeviceError(ValueError):
    """A tensor on another device than the model's parameters; the text names the move."""


class SettingError(ValueError):
    """An argument whose value is outside its range, or a combination that has no meaning."""


class UnsupportedModelError(NotImplementedError):
    """A model that the fused engine cannot take; the text names the layer that stopped it."""


class BackendError(RuntimeError):
    """The compiled engine is missing, or was built without what the call asks for."""


class InternalError(RuntimeError):
    """A broken promise inside fastmaml itself: never the caller's fault, please report it."""
