"""Loss arguments, brought into one form.

A `Loss` is what a caller may write as ``loss=``: a name, a torch loss module, a torch function or
any callable. The first three have an `op` that the compiled engine knows; a callable has none and
always runs in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .errors import SettingError, shown

__all__ = ["Loss", "LossArgument", "resolve"]

LossOp = Literal["mse", "cross_entropy", "bce_with_logits"]
LossArgument = str | nn.Module | Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss in the one form the rest of the package reads.

    Attributes:
        op: The engine's name of the loss, or None when only PyTorch can compute it.
        attrs: The engine's settings: ``("sum", 1.0)`` for a sum over rows instead of their mean,
            ``("label_smoothing", e)``.
        function: ``function(logits, y)`` gives the loss of one task as a 0-dim tensor.
        name: How messages call it.
        classifies: True for every form of cross-entropy, whose y may hold class indices.
    """

    op: LossOp | None
    attrs: tuple[tuple[str, float], ...]
    function: Callable[[Tensor, Tensor], Tensor]
    name: str
    classifies: bool = False


_NAMED: dict[str, Loss] = {
    "mse": Loss("mse", (), F.mse_loss, "mse"),
    "cross_entropy": Loss("cross_entropy", (), F.cross_entropy, "cross_entropy", True),
    "bce_with_logits": Loss(
        "bce_with_logits", (), F.binary_cross_entropy_with_logits, "bce_with_logits"
    ),
}
_BY_FUNCTION = [(known.function, known) for known in _NAMED.values()]  # a loss may have no hash
_BY_MODULE: dict[type[nn.Module], Loss] = {
    nn.MSELoss: _NAMED["mse"],
    nn.CrossEntropyLoss: _NAMED["cross_entropy"],
    nn.BCEWithLogitsLoss: _NAMED["bce_with_logits"],
}
_IGNORE_INDEX = -100  # torch's default, which no class index can equal


def resolve(loss: LossArgument, where: str = "loss") -> Loss:
    """Bring a ``loss=`` argument into its one form.

    Args:
        loss: ``"mse"``, ``"cross_entropy"`` or ``"bce_with_logits"`` (mean over a task's rows);
            an `nn.MSELoss`, `nn.CrossEntropyLoss` or `nn.BCEWithLogitsLoss`, whose ``reduction``
            may be ``"mean"`` or ``"sum"``; the torch function of one of them; or any callable
            ``(logits, y) -> 0-dim tensor`` for one task.
        where: The call that error texts begin with.

    Returns:
        The `Loss`. Class or element weights and other modules leave its ``op`` None.

    Raises:
        SettingError: An unknown name, ``reduction="none"``, an ``ignore_index``, a
            ``label_smoothing`` outside [0, 1], or an object that cannot be called.

    >>> resolve("mse").op
    'mse'
    >>> resolve(nn.CrossEntropyLoss(reduction="sum")).attrs
    (('sum', 1.0),)
    >>> resolve(lambda logits, y: (logits - y).abs().mean()).op is None
    True
    """
    if isinstance(loss, str):
        known = _NAMED.get(loss)
        if known is None:
            raise SettingError(
                f"{where}: loss must be one of {_names()}, a torch loss module or a callable, "
                f"got {shown(loss)}."
            )
        return known
    if isinstance(loss, nn.Module):
        return _from_module(loss, where)
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        raise SettingError(
            f"{where}: loss must be an instance, got the class {loss.__name__}; "
            f"pass {loss.__name__}()."
        )
    if not callable(loss):
        raise SettingError(
            f"{where}: loss must be one of {_names()}, a torch loss module or a callable, "
            f"got an object of type {type(loss).__name__}."
        )
    known = next((named for function, named in _BY_FUNCTION if function is loss), None)
    function: Any = loss
    return known or Loss(None, (), function, getattr(loss, "__name__", "callable"))


def _names() -> str:
    return ", ".join(f'"{name}"' for name in _NAMED)


def _from_module(module: nn.Module, where: str) -> Loss:
    """Read the settings off a torch loss module."""
    name = type(module).__name__
    base = next((known for known in _BY_MODULE if isinstance(module, known)), None)
    classifies = base is nn.CrossEntropyLoss
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    if base is None or type(module) is not base or hooked or "forward" in vars(module):
        return Loss(None, (), module, name, classifies)
    reduction = module.reduction
    if reduction not in ("mean", "sum"):
        raise SettingError(
            f'{where}: {name} must have reduction "mean" or "sum" to give one loss per task, '
            f'got "{reduction}".'
        )
    ignored = getattr(module, "ignore_index", _IGNORE_INDEX)
    if ignored != _IGNORE_INDEX:
        raise SettingError(
            f"{where}: {name} must not have an ignore_index, which is not supported, got "
            f"{ignored}; drop those rows, or pass a callable (logits, y) -> 0-dim loss."
        )
    given = getattr(module, "label_smoothing", 0.0)
    if not 0.0 <= given <= 1.0:
        raise SettingError(
            f"{where}: {name} must have label_smoothing between 0 and 1, got {shown(given)}."
        )
    smoothing = float(given)
    if (
        getattr(module, "weight", None) is not None
        or getattr(module, "pos_weight", None) is not None
    ):
        return Loss(None, (), module, name, classifies)
    attrs: list[tuple[str, float]] = []
    if reduction == "sum":
        attrs.append(("sum", 1.0))
    if smoothing:
        attrs.append(("label_smoothing", smoothing))
    return Loss(_BY_MODULE[base].op, tuple(attrs), module, name, classifies)
