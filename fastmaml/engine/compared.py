"""A recorded network beside the forward that it stands for, on the data of a call.

A trace takes nothing that it did not see. This is the proof by numbers that it saw everything: the
model's own forward, on a copy of it, and the engine's, on one task's rows.

Rounding may part the two, too: where they differ in the model's dtype they are made again in
float64. Data on which even these cannot agree, because the model itself turns differences that
rounding makes into large ones, or numbers that are not finite, prove nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastmaml import forks
from fastmaml.definition.copies import ModelCopy
from fastmaml.errors import UnsupportedModelError
from fastmaml.losses import resolve
from fastmaml.modes import grad_mode
from fastmaml.settings import Settings
from fastmaml.tasks import Tasks
from fastmaml.threads import get_num_threads
from fastmaml.tracing.network import layer_name

from .binding import CompiledPlan, PlanSettings
from .core import Engine

if TYPE_CHECKING:
    from fastmaml.tracing.trace import Network

    from .binding import Theta

__all__ = ["ForwardError", "Proof", "agrees"]

_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the largest output
_GROSS = 0.1  # of it: more than float32 explains of any model worth training
_NUDGE = 2.0**-40  # of the largest input, or of 1: thousands of times what rounding can be
_CHANCE = 64  # how many times as large one of two numbers that are rounding may be as the other


_ATTEMPTS = 3  # on data that may prove nothing


class Proof:
    """What is known of a network and the forward that it stands for."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._agrees: bool | None = None
        self._attempts = _ATTEMPTS

    def check(
        self,
        model: nn.Module,
        network: Network,
        tensors: list[Tensor],
        tasks: Tasks,
        settings: Settings,
    ) -> None:
        """Compare both on the first call's data, and on the next ones' where these prove nothing.

        It is the first task's smaller set, or two rows of it where their number is none of the
        forward's business: batch statistics need two.

        Raises:
            UnsupportedModelError: The network gives other numbers than the model's forward.
        """
        if self._agrees is None and self._attempts > 0:
            on_support = settings.inner_steps > 0 and tasks.support_rows < tasks.query_rows
            x = tasks.support_x if on_support else tasks.query_x
            rows = None if network.knows_rows else 2
            try:
                self._agrees = agrees(model, network, tensors, x[0, :rows], settings.engine)
            except ForwardError as error:  # perhaps not the next time
                raise UnsupportedModelError(
                    f"{layer_name('', model)}, whose forward fails ({error})"
                ) from None
            self._attempts -= 1
        if self._agrees is False:
            raise UnsupportedModelError(
                f"{layer_name('', model)}, whose forward gives other numbers than what was "
                "recorded of it"
            )


class ForwardError(Exception):
    """The model's own forward failed."""


def agrees(
    model: nn.Module, network: Network, tensors: list[Tensor], x: Tensor, engine: Engine
) -> bool | None:
    """Whether a network gives what the model's forward gives.

    Args:
        model: The model; its forward runs on a copy, and as often as it takes.
        network: What was recorded of it for as many rows.
        tensors: The network's, as they are in the model.
        x: ``[rows, ...]``, of the model's dtype and device.
        engine: What runs the network.

    Returns:
        True or False, or None where nothing can be told: by the data, in a process that was forked
        (torch's threads did not come along, and it may wait for them for ever), or while a CUDA
        graph is recorded.

    Raises:
        ForwardError: The forward failed, as it may for want of memory.
    """
    if forks.is_child() or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    with grad_mode():
        x = x.detach().clone()
        own, fused = _own(model, x), _fused(network, tensors, x, engine)
        if _close(own, fused, _ROUNDING[x.dtype]):
            return True
        if not torch.isfinite(own).all():
            return None
        try:
            return _exactly(model, network, tensors, x.double(), engine)
        except ForwardError:  # it names its dtype
            return None if _close(own, fused, _GROSS) else False


def _exactly(
    model: nn.Module, network: Network, tensors: list[Tensor], x: Tensor, engine: Engine
) -> bool | None:
    """The same in float64."""
    nudge = _NUDGE * max(1.0, float(x.abs().max()))
    ramp = torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=x.device).view_as(x)
    own, nudged = _own(model, x), _own(model, x + nudge * ramp)
    fused = _fused(network, tensors, x, engine)
    if _close(own, fused, _ROUNDING[x.dtype]):
        return True
    unsure = max(nudge, _CHANCE * _apart(own, nudged))
    return None if _apart(own, fused) <= unsure else False


def _own(model: nn.Module, x: Tensor) -> Tensor:
    """The forward's output ``[rows, ...]``, in the dtype of x.

    The forward may ask whether autograd records, so that it must.
    """
    # Of other tensors a recorded forward reads and writes nothing.
    copied = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    twin = ModelCopy(model, lambda t: _as(t, x.dtype) if id(t) in copied else t).module
    try:
        output = twin(x.clone())
    except Exception as error:  # of any kind: it is the user's code
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ForwardError(text) from error
    if not isinstance(output, Tensor):
        raise ForwardError(f"it returned a {type(output).__name__}")
    return output.detach()


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What stands in a copy of the model for a tensor of its: the same numbers in another dtype."""
    made = tensor.detach().clone()
    made = made.to(dtype) if made.is_floating_point() else made
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made.requires_grad_(tensor.requires_grad)


def _fused(network: Network, tensors: list[Tensor], x: Tensor, engine: Engine) -> Tensor:
    """The engine's output of the network for the same rows."""
    rows = x.shape[0]
    settings = PlanSettings(
        mode="evaluate",
        float64=x.dtype is torch.float64,
        support_rows=rows,
        query_rows=rows,
        inner_steps=0,
        first_order=True,
        rate_grad=False,
        device=engine.on_device(x.device),
    )
    # A loss that takes whatever the output's shape.
    plan = CompiledPlan(network, resolve("mse"), settings, engine=engine)
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
