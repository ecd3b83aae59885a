"""A call that passed the door: which backend runs it, and what a run came to.

Every call passes the same door (`fastmaml.tasks`), then runs the fused engine where it can take the
model and the reference algorithm in PyTorch where it cannot.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from fastmaml.definition import fallback
from fastmaml.definition.functional import is_autocast, model_kind, trainable
from fastmaml.engine import binding
from fastmaml.engine.memory import Fit
from fastmaml.engine.plan import ModelPlans, lookup, traced_now
from fastmaml.errors import BackendError, ShapeError, UnsupportedModelError
from fastmaml.notices import warn_of_reference
from fastmaml.reference import Outcome
from fastmaml.settings import Settings, check_precision
from fastmaml.tasks import Pair, Tasks, validate

from .wrappers import unwrap

__all__ = ["Call", "compute", "outcome_of", "prepare", "run"]


class Call(NamedTuple):
    """A call that passed the door. Without a fit it runs in PyTorch."""

    where: str  # what error texts begin with
    model: nn.Module
    tasks: Tasks
    settings: Settings
    fit: Fit | None
    theta: binding.Theta  # the network's tensors
    parameters: dict[str, Tensor]  # the trainable ones among them, in the plan's order


def prepare(
    where: str,
    model: nn.Module,
    support: Pair,
    query: Pair,
    settings: Settings,
    purpose: binding.Purpose,
) -> Call:
    """Check everything, and find the plan unless the call must run in PyTorch."""
    model = unwrap(model)
    if settings.backend != "reference":
        try:
            return _prepare_fused(where, model, support, query, settings, purpose)
        except (UnsupportedModelError, BackendError) as error:
            if settings.backend == "fused":
                raise
            warn_of_reference(where, model, error)
    dtype, device = model_kind(where, model)
    check_precision(where, settings, dtype, device)
    tasks = validate(where, support, query, dtype=dtype, device=device, loss=settings.loss)
    return Call(where, model, tasks, settings, None, [], trainable(where, model))


def _prepare_fused(
    where: str,
    model: nn.Module,
    support: Pair,
    query: Pair,
    settings: Settings,
    purpose: binding.Purpose,
) -> Call:
    """The fused half of `prepare`: raises when the engine cannot take the call."""
    binding.require(where)
    if not isinstance(model, nn.Module):
        raise _unsupported(where, f"{type(model).__name__}, which is not a torch.nn.Module")
    plans = lookup(model, where)
    dtype, device = plans.kind(where, model)
    check_precision(where, settings, dtype, device)
    tasks = validate(where, support, query, dtype=dtype, device=device, loss=settings.loss)
    binding.require(where, device)
    if is_autocast(device):
        raise _unsupported(where, "a call under torch.autocast")
    if settings.loss.op is None:
        looked = (
            settings.backend != "fused" and model in _looked_at
        )  # as for all calls of a loop but one
        also = "" if looked else _refusal(model, plans, tasks, where)
        raise _unsupported(where, f"loss `{settings.loss.name}`{also}")
    if settings.loss.classifies and tasks.support_y.is_floating_point():
        raise _unsupported(where, "class probabilities as targets")
    try:
        traced, theta = traced_now(model, plans, tasks, where, settings.engine)
    except UnsupportedModelError as error:
        raise _unsupported(where, str(error)) from None
    rate = settings.inner_lr
    found = traced.plan(
        tasks,
        settings,
        purpose=purpose,
        dtype=dtype,
        rate_grad=purpose == "meta_step" and isinstance(rate, Tensor) and rate.requires_grad,
        where=where,
    )
    try:
        traced.compare(model, tasks, settings)
    except UnsupportedModelError as error:
        raise _unsupported(where, str(error)) from None
    return Call(where, model, tasks, settings, found, theta, traced.parameters)


_looked_at: WeakSet[nn.Module] = WeakSet()  # in `_refusal`


def _refusal(model: nn.Module, plans: ModelPlans, tasks: Tasks, where: str) -> str:
    """What of the model itself the engine could not take either, behind another reason."""
    _looked_at.add(model)
    try:
        plans.traced(model, tasks, where)
    except UnsupportedModelError as error:
        return f"; and {error}"
    except ShapeError:  # the model's own will say so
        pass
    return ""


def _unsupported(where: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f'{where}: backend "fused" cannot take {what}; use backend="reference".'
    )


def run(call: Call, fit: Fit) -> binding.Outputs:
    """One run of the engine."""
    rate = call.settings.inner_lr
    rate = rate.detach() if isinstance(rate, Tensor) else rate
    return fit.plan.run(call.tasks, call.theta, rate, fit.threads, fit.lanes)


def compute(call: Call, *, want_grad: bool) -> Outcome:
    """Run the call on its backend."""
    if call.fit is None:
        return fallback.compute(
            call.model, call.tasks, call.settings, want_grad=want_grad, where=call.where
        )
    ran = run(call, call.fit)
    if not want_grad:
        return Outcome(ran.task_losses, ran.logits, {}, None, ran.executor)
    return outcome_of(call, ran)


def outcome_of(call: Call, ran: binding.Outputs) -> Outcome:
    """What a run of the engine for a meta-step came to, by name."""
    grads = dict(zip(call.parameters, ran.tensors, strict=True))
    return Outcome(ran.task_losses, ran.logits, grads, _rate_grad(call, ran), ran.executor)


def _rate_grad(call: Call, ran: binding.Outputs) -> Tensor | None:
    """The learning rate's meta-gradient: - sum over tasks and steps of <v, g[k]>."""
    rate = call.settings.inner_lr
    if not isinstance(rate, Tensor) or not rate.requires_grad:
        return None
    if ran.rate_dots is None:
        return torch.zeros_like(rate, requires_grad=False)
    return -ran.rate_dots.sum().to(rate.device, rate.dtype)
