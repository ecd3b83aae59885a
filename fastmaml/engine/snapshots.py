"""A model as it is between calls: what may not have changed if its traces are to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastmaml.engine import binding

if TYPE_CHECKING:
    from .binding import Snapshot

__all__ = ["snapshot", "weak_snapshot"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_backward_hooks,
    nn.modules.module._global_backward_pre_hooks,
)


def snapshot(model: nn.Module, items: list[tuple[Any, str, Any]]) -> Snapshot:
    """A model as it is. Tensors have no equality: they are compared by name and identity.

    The copies keep them alive, and with them their identities.
    """
    compiled = torch.jit.ScriptModule  # no dicts of Python's; a trace refuses them
    parts = [vars(module) for module in model.modules() if not isinstance(module, compiled)]
    equal: list[tuple[Any, Any]] = []
    same: list[tuple[Any, Any]] = []
    for live in parts:
        equal.append((live, dict(live)))
        same += [(live[kind], dict(live[kind])) for kind in ("_modules", "_parameters", "_buffers")]
    empty = [*_GLOBAL_HOOKS, *(live[name] for live in parts for name in _HOOKS)]
    return binding.snapshot(equal, same, empty, _flags(model), items)


def _flags(model: nn.Module) -> list[tuple[Tensor, bool]]:
    return [(p, p.requires_grad) for p in model.parameters()]


def weak_snapshot(model: nn.Module, items: list[tuple[Any, str, Any]]) -> Snapshot:
    """Of this only what keeps no module alive."""
    return binding.snapshot([], [], list(_GLOBAL_HOOKS), _flags(model), items)
