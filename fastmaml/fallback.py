"""The reference's numbers with all tasks at once, for models that the engine cannot take.

`torch.func.vmap` runs a batch of tasks in one go where the model allows it; random layers,
in-place tricks and data-dependent Python do not. Nor is it always right: in torch 2.13 the second
derivative of batch, layer and instance norm under vmap is wrong by percents, without a word. So
these three are computed from their formulas here, and a model's first call of a kind runs both
ways: it returns the loop's numbers, and only if vmap's agree do later calls of the kind use vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from . import reference
from .errors import DeviceError, DtypeError, SettingError, ShapeError
from .functional import Function, leaf, trainable
from .kept import Recent
from .modes import Mode, grad_mode, within
from .reference import Outcome
from .tasks import Settings, Tasks

__all__ = ["compute"]

_CHUNK = (
    32  # tasks per vmap: all their graphs are alive at once, and the overhead is spread by then
)
_KINDS = 64  # kinds of call remembered per model
# Relative error between loop and vmap that rounding explains; a wrong formula errs by percents.
_AGREEMENT = {torch.float32: 1e-4, torch.float64: 1e-9}

_agrees: WeakKeyDictionary[nn.Module, Recent[Hashable, bool]] = WeakKeyDictionary()


def compute(
    model: nn.Module,
    tasks: Tasks,
    settings: Settings,
    *,
    want_grad: bool,
    where: str = "meta_step",
) -> Outcome:
    """Run a meta-step on checked data: `fastmaml.reference.compute`, batched where that is sound.

    Arguments, result and errors are those of `fastmaml.reference.compute`.
    """
    kinds = _agrees.setdefault(model, Recent(_KINDS))
    kind = _kind(model, tasks, settings, want_grad)
    agrees = kinds[kind]
    if agrees:
        outcome = _try_batched(model, tasks, settings, want_grad, where)
        if outcome is not None:
            return outcome
        agrees = kinds[kind] = False
    outcome = reference.compute(model, tasks, settings, want_grad=want_grad, where=where)
    if agrees is None and tasks.tasks > 1 and _finite(outcome):
        batched = _try_batched(model, tasks, settings, want_grad, where)
        kinds[kind] = batched is not None and _close(outcome, batched)
    return outcome


def _kind(model: nn.Module, tasks: Tasks, settings: Settings, want_grad: bool) -> Hashable:
    """What decides which Python code and which torch operations a call runs."""
    function = settings.loss.function
    return (
        tuple((type(module), module.training) for module in model.modules()),
        tuple(parameter.requires_grad for parameter in model.parameters()),
        (tasks.support_rows, tasks.query_rows, tasks.row_shape, tasks.query_y.dtype),
        (settings.loss.name, getattr(function, "__code__", type(function))),
        (settings.inner_steps > 0, settings.first_order, want_grad),
    )


def _try_batched(
    model: nn.Module, tasks: Tasks, settings: Settings, want_grad: bool, where: str
) -> Outcome | None:
    """The batched run, or None where the model does not allow it."""
    try:
        with grad_mode():
            return within(_FormulaNorms(), _batched, model, tasks, settings, want_grad, where)
    except (ShapeError, DtypeError, DeviceError, SettingError):
        raise
    except Exception:
        # vmap and model code raise all sorts; if the cause is the caller's, the loop raises it too
        return None


def _batched(
    model: nn.Module, tasks: Tasks, settings: Settings, want_grad: bool, where: str
) -> Outcome:
    """As `reference.compute`, a chunk of tasks at a time."""
    theta = {name: leaf(p, want_grad) for name, p in trainable(where, model).items()}
    wanted = list(theta.values())
    alpha = settings.inner_lr
    if isinstance(alpha, Tensor):
        learned = want_grad and alpha.requires_grad
        alpha = leaf(alpha, learned)
        wanted += [alpha] if learned else []
        settings = settings._replace(inner_lr=alpha)
    function = Function(model, tasks, settings.loss, where)

    def one(*data: Tensor) -> tuple[Tensor, Tensor]:
        phi = _inner_loop(function, theta, settings, *data[:2])
        return function.loss(phi, *data[2:])

    data = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
    parameters = len(wanted)
    sums: list[Tensor | None] = [None] * parameters
    losses: list[Tensor] = []
    outputs: list[Tensor] = []
    for chunk in zip(*(torch.split(tensor, _CHUNK) for tensor in data), strict=True):
        task_losses, logits = vmap(one)(*chunk)
        if want_grad and not losses and function.has_others:
            wanted += reference.other_leaves(task_losses.sum(), wanted)
            sums += [None] * (len(wanted) - len(sums))
        if want_grad and task_losses.requires_grad:
            new = torch.autograd.grad(task_losses.sum(), wanted, allow_unused=True)
            sums = [_sum(a, b) for a, b in zip(sums, new, strict=True)]
        losses.append(task_losses.detach())
        outputs.append(logits.detach())
    means = [None if total is None else total / tasks.tasks for total in sums]
    grads = {name: g for name, g in zip(theta, means, strict=False) if g is not None}
    rate_grad = None
    if parameters > len(theta):
        mean = means[parameters - 1]
        rate_grad = torch.zeros_like(wanted[parameters - 1]) if mean is None else mean
    also = zip(wanted[parameters:], means[parameters:], strict=True)
    others = tuple((leaf, mean) for leaf, mean in also if mean is not None)
    return Outcome(torch.cat(losses), torch.cat(outputs), grads, rate_grad, others=others)


def _inner_loop(
    function: Function, theta: dict[str, Tensor], settings: Settings, x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """K gradient steps on one support set, under vmap."""
    alpha = settings.inner_lr
    phi = theta
    for _ in range(settings.inner_steps):
        g = grad(lambda at: function.loss(at, x, y)[0])(phi)
        if settings.first_order:
            g = {name: value.detach() for name, value in g.items()}
        phi = {name: p - alpha * g[name] for name, p in phi.items()}
    return phi


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Sum of two gradients of which either may be absent."""
    return b if a is None else a if b is None else a + b


def _tensors(outcome: Outcome) -> Iterable[Tensor]:
    """All numbers of an outcome, in an order that another outcome of the same call shares."""
    yield outcome.task_losses
    yield outcome.logits
    yield from (outcome.grads[name] for name in sorted(outcome.grads))
    yield from (grad for _, grad in outcome.others)
    if outcome.rate_grad is not None:
        yield outcome.rate_grad


def _finite(outcome: Outcome) -> bool:
    """Whether there is something to compare."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(outcome))


def _close(loop: Outcome, batched: Outcome) -> bool:
    """Whether two outcomes differ by rounding only."""
    same = [a is b for (a, _), (b, _) in zip(loop.others, batched.others, strict=False)]
    if loop.grads.keys() != batched.grads.keys() or not all(same):
        return False
    if len(loop.others) != len(batched.others):
        return False
    tolerance = _AGREEMENT[loop.task_losses.dtype]
    scale = max((float(g.abs().max()) for g in loop.grads.values() if g.numel()), default=0.0)
    for a, b in zip(_tensors(loop), _tensors(batched), strict=True):
        if a.shape != b.shape:
            return False
        size = max(scale, float(a.abs().max()) if a.numel() else 0.0)
        if a.numel() and float((a - b).abs().max()) > tolerance * size:
            return False
    return True


class _FormulaNorms(Mode):
    """Computes norms from their formulas instead of by torch's fused kernels."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Divert the calls whose second derivatives vmap gets wrong."""
        return _FORMULAS.get(func, func)(*args, **kwargs)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [0, *range(2, input.dim())]
    return _affine(_normalized(input, dims, eps), weight, bias)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_normalized(input, list(range(2, input.dim())), eps), weight, bias)


def _layer_norm(
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    y = _normalized(input, list(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _normalized(x: Tensor, dims: list[int], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) over some dimensions."""
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Scale and shift per channel, dimension 1."""
    shape = [1, -1] + [1] * (y.dim() - 2)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


_FORMULAS: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
}
