"""A recorded network beside the forward that it stands for, on the data of a call.

A trace takes nothing that it did not see. This is the proof by numbers that it saw everything: the
model's own forward, on a copy of it, and the engine's, on one task's rows.

Rounding may part the two, too: where they differ in the model's dtype they are made again in
float64. Data on which even these cannot agree, because the model itself turns differences that
rounding makes into large ones, or numbers that are not finite, prove nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastmaml.definition.copies import ModelCopy
from fastmaml.engine import _device
from fastmaml.losses import resolve
from fastmaml.modes import grad_mode
from fastmaml.tasks import Tasks
from fastmaml.threads import get_num_threads

from .binding import CompiledPlan

if TYPE_CHECKING:
    from fastmaml.tracing.trace import Network

    from .binding import Theta

__all__ = ["agrees"]

_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the largest output
_NUDGE = 2.0**-40  # of the largest input: thousands of times what rounding can be

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def agrees(model: nn.Module, network: Network, tensors: list[Tensor], x: Tensor) -> bool | None:
    """Whether a network gives what the model's forward gives.

    Args:
        model: The model; its forward runs on a copy, and as often as it takes.
        network: What was recorded of it for as many rows.
        tensors: The network's, as they are in the model.
        x: ``[rows, ...]``, of the model's dtype and device.

    Returns:
        True or False, or None where nothing can be told: by the data, in a process that was forked
        (torch's threads did not come along, and it may wait for them for ever), or while a CUDA
        graph is recorded. Of a forward that fails the network is no likeness: False.
    """
    if _forked or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    with grad_mode():
        x = x.detach().clone()
        own = _own(model, x)
        if own is None:
            return False
        fused = _fused(network, tensors, x)
        if _close(own, fused, _ROUNDING[x.dtype]):
            return True
        if not torch.isfinite(own).all():
            return None
        return _exactly(model, network, tensors, x.double())


def _exactly(model: nn.Module, network: Network, tensors: list[Tensor], x: Tensor) -> bool | None:
    """The same in float64."""
    ramp = torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=x.device).view_as(x)
    own, nudged = _own(model, x), _own(model, x + _NUDGE * float(x.abs().max()) * ramp)
    if own is None or nudged is None:
        return False
    fused = _fused(network, tensors, x)
    if _close(own, fused, _ROUNDING[x.dtype]):
        return True
    return None if _apart(own, nudged) >= _apart(own, fused) else False


def _own(model: nn.Module, x: Tensor) -> Tensor | None:
    """The forward's output ``[rows, ...]``, in the dtype of x; None where it fails.

    The forward may ask whether autograd records, so that it must; what backward would need is not
    kept.
    """
    twin = ModelCopy(model, lambda tensor: _as(tensor, x.dtype)).module
    try:
        with torch.autograd.graph.saved_tensors_hooks(_forget, _forgotten):
            output = twin(x.clone())
    except Exception:  # of any kind: it is the user's code
        return None
    return output.detach() if isinstance(output, Tensor) else None


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What stands in a copy of the model for a tensor of its: the same numbers in another dtype."""
    made = tensor.detach().clone()
    made = made.to(dtype) if made.is_floating_point() else made
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made.requires_grad_(tensor.requires_grad)


def _forget(tensor: Tensor) -> None:
    return None


def _forgotten(nothing: None) -> Any:
    raise RuntimeError("no graph was kept")


def _fused(network: Network, tensors: list[Tensor], x: Tensor) -> Tensor:
    """The engine's output of the network for the same rows."""
    rows = x.shape[0]
    loss = resolve("mse")  # whatever the output's shape
    plan = CompiledPlan(
        network,
        loss,
        purpose="evaluate",
        dtype=x.dtype,
        support_rows=rows,
        query_rows=rows,
        inner_steps=0,
        first_order=True,
        rate_grad=False,
        device=_device.on_device(x.device),
    )
    y = x.new_zeros((1, rows, *plan.output_shape))
    tasks = Tasks(x[None], y, x[None], y, 1, rows, rows, tuple(x.shape[1:]))
    theta: Theta = [t.detach().resolve_neg().to(x.dtype).contiguous() for t in tensors]
    return plan.run(tasks, theta, 0.0, get_num_threads()).logits[0]


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, or infinity where the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max()) if a.numel() else 0.0


def _close(own: Tensor, fused: Tensor, tolerance: float) -> bool:
    """Whether rounding explains the difference; false where one is not finite."""
    return _apart(own, fused) <= tolerance * float(own.abs().max())
