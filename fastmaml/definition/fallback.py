"""The reference's numbers with many tasks at once, for models that the engine cannot take.

`torch.func.vmap` runs a batch of tasks in one go where the model allows it; random layers,
in-place tricks and data-dependent Python do not. Nor is it always right: in torch 2.13 the second
derivative of batch, layer and instance norm under vmap is wrong by percents, without a word. So
these three are computed from their formulas here. Nor is it always faster: it spares Python and
torch's overhead, but its products are slower, and the graphs of all tasks are alive at once.

So a model's first call of a kind, with data that are finite, runs both ways, unless the graphs
would be large, and keeps to the one that it chooses: later calls of the kind run the same, to the
same bits. The two differ by rounding, and as they are timed, another process may choose otherwise;
under ``torch.use_deterministic_algorithms(True)`` the loop runs always.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from statistics import median
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from fastmaml import reference
from fastmaml.engine.kept import Recent
from fastmaml.errors import DeviceError, DtypeError, SettingError, ShapeError
from fastmaml.modes import Mode, grad_mode, within
from fastmaml.reference import Outcome, added
from fastmaml.settings import Settings
from fastmaml.tasks import Tasks

from .derivatives import derived_twice
from .functional import Function, leaf, trainable
from .generators import positions
from .inner_loop import query_losses

__all__ = ["compute"]

_FEWEST = 8  # tasks per vmap: with fewer it is hardly faster, and the choice left to chance
_CHUNK = 32  # tasks per vmap, at most: the overhead is spread by then
_MOST_BYTES = 8 << 20  # that the tasks of a chunk hold: little beside torch's own code
_GAIN = 1.3  # how many times as fast vmap must be, so that most choices are no matter of chance
_TRIALS, _TRIAL_SECONDS = 10, 0.2  # turns at most, and none begins after that time
_KINDS = 64  # kinds of call remembered per model
# Relative error between loop and vmap that rounding explains; a wrong formula errs by percents.
_AGREEMENT = {torch.float32: 1e-4, torch.float64: 1e-9}

# Of each kind of call the tasks per vmap, 1 for the loop.
_chosen: WeakKeyDictionary[nn.Module, Recent[Hashable, int]] = WeakKeyDictionary()


class _Call(NamedTuple):
    """The arguments of `compute`."""

    model: nn.Module
    tasks: Tasks
    settings: Settings
    want_grad: bool
    where: str
    every_step: bool

    def loop(self) -> Outcome:
        """Run it one task after another."""
        return reference.compute(
            self.model,
            self.tasks,
            self.settings,
            want_grad=self.want_grad,
            where=self.where,
            every_step=self.every_step,
        )

    def batched(self, chunk: int) -> Outcome | None:
        """Run it a chunk of tasks at a time; None where the model does not allow it."""
        twice = self.want_grad and self.settings.inner_steps > 0 and not self.settings.first_order
        try:
            return derived_twice(self.where, self.model, lambda: _batched(self, chunk), twice=twice)
        except (ShapeError, DtypeError, DeviceError, SettingError):
            raise
        except Exception:
            # vmap and model code raise all sorts; if it is the caller's fault, the loop raises too
            return None


def compute(
    model: nn.Module,
    tasks: Tasks,
    settings: Settings,
    *,
    want_grad: bool,
    where: str = "meta_step",
    every_step: bool = False,
) -> Outcome:
    """Run a meta-step on checked data: `fastmaml.reference.compute`, or the same batched.

    Arguments, result and errors are those of `fastmaml.reference.compute`.
    """
    call = _Call(model, tasks, settings, want_grad, where, every_step)
    if tasks.tasks < _FEWEST or torch.are_deterministic_algorithms_enabled():
        return call.loop()
    kinds = _chosen.setdefault(model, Recent(_KINDS))
    kind = _kind(call)
    chunk = kinds[kind]
    if chunk is None:
        chunk, outcome = _choose(call)
        if chunk is not None:
            kinds[kind] = chunk
        return outcome
    if chunk > 1:
        batched = call.batched(chunk)
        if batched is not None:
            return batched
        kinds[kind] = 1
    return call.loop()


def _choose(call: _Call) -> tuple[int | None, Outcome]:
    """Tasks per vmap, or 1 for the loop, and what the chosen form computed.

    None where the data are not finite and prove nothing. Torch's random numbers that the trials
    take are given back; who draws others stays with the loop.
    """
    before = positions()
    loop = call.loop()
    if positions() != before:
        return 1, loop
    if not _finite(loop):
        return None, loop
    device = call.tasks.query_x.device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        chunk = _affordable(call)
        batched = call.batched(chunk) if chunk > 1 else None
        if batched is None or not _close(loop, batched):
            return 1, loop
        return (chunk, batched) if _gain(call, chunk) > _GAIN else (1, loop)


def _gain(call: _Call, chunk: int) -> float:
    """How many times as fast vmap is as the loop, both having run before.

    Other processes disturb: of the ratio of the least times and that of turns, the smaller counts.
    """
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + _TRIAL_SECONDS
    while not times or (len(times) < _TRIALS and time.perf_counter() < end):
        times.append((_seconds(call.loop), _seconds(lambda: call.batched(chunk))))
    least = min(a for a, _ in times) / min(b for _, b in times)
    return min(least, median(a / b for a, b in times))


def _seconds(run: Callable[[], Outcome | None]) -> float:
    """How long a form takes until its numbers are there."""
    start = time.perf_counter()
    outcome = run()
    if outcome is not None:
        _finite(outcome)  # reads them
    return time.perf_counter() - start


def _affordable(call: _Call) -> int:
    """As many tasks, a power of two, as may be alive at once, or 1 where those are few.

    A task is reckoned to hold what its graph saves and four times its parameters: fast weights,
    their slopes, and two gradients by them. What the graph saves is counted on the first task, a
    tensor as often as it is saved: a number that depends on shapes alone.
    """
    first = call.tasks._replace(
        support_x=call.tasks.support_x[:1],
        support_y=call.tasks.support_y[:1],
        query_x=call.tasks.query_x[:1],
        query_y=call.tasks.query_y[:1],
        tasks=1,
    )
    parameters = trainable(call.where, call.model).values()
    held = 4 * sum(parameter.nbytes for parameter in parameters)

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor.detach()  # the tensor itself would keep its own graph alive

    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            call._replace(tasks=first).loop()
    except Exception:  # torch.func in the forward, for one, does not work under hooks
        return 1
    finally:
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if top is not None and top[0] is count:  # left by an interrupt
            torch._C._autograd._pop_saved_tensors_default_hooks()
    chunk = 1
    while 2 * chunk <= min(_CHUNK, call.tasks.tasks) and 2 * chunk * held <= _MOST_BYTES:
        chunk *= 2
    return chunk if chunk >= _FEWEST else 1


def _kind(call: _Call) -> Hashable:
    """What decides which Python code and which torch operations a call runs, and how large."""
    model, tasks, settings = call.model, call.tasks, call.settings
    function = settings.loss.function
    return (
        tuple((type(module), module.training) for module in model.modules()),
        tuple(parameter.requires_grad for parameter in model.parameters()),
        (tasks.tasks, tasks.support_rows, tasks.query_rows, tasks.row_shape),
        (tasks.support_x.dtype, tasks.query_y.dtype, tasks.support_x.device),
        (settings.loss.name, getattr(function, "__code__", type(function))),
        (settings.inner_steps, settings.first_order, call.want_grad, call.every_step),
    )


def _batched(call: _Call, chunk: int) -> Outcome:
    """As `reference.compute`, a chunk of tasks at a time."""
    with grad_mode():
        return within(_FormulaNorms(), _in_chunks, call, chunk)


def _in_chunks(call: _Call, chunk: int) -> Outcome:
    model, tasks, settings, want_grad = call.model, call.tasks, call.settings, call.want_grad
    own = trainable(call.where, model)
    theta = {name: leaf(p, True) for name, p in own.items()}
    wanted = list(theta.values())
    alpha = settings.inner_lr
    if isinstance(alpha, Tensor):
        learned = want_grad and alpha.requires_grad
        alpha = leaf(alpha, learned)
        wanted += [alpha] if learned else []
        settings = settings._replace(inner_lr=alpha)
    function = Function(model, own, tasks, settings.loss, call.where)
    data = (tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y)
    parameters = len(wanted)
    sums: list[Tensor | None] = [None] * parameters
    losses: list[Tensor] = []
    outputs: list[Tensor] = []
    for part in zip(*(torch.split(tensor, chunk) for tensor in data), strict=True):
        task_losses, logits = query_losses(
            function,
            # Within autograd, not around it: what is derived is operations on all tasks at once.
            vmap(function.loss),
            {name: p.expand(len(part[0]), *p.shape) for name, p in theta.items()},
            settings,
            part,
            every_step=call.every_step,
            dim=1,
        )
        if want_grad and not losses and function.has_others:
            wanted += reference.other_leaves(task_losses.sum(), wanted)
            sums += [None] * (len(wanted) - len(sums))
        if want_grad and task_losses.requires_grad:
            new = torch.autograd.grad(task_losses.sum(), wanted, allow_unused=True)
            sums = [added(a, b) for a, b in zip(sums, new, strict=True)]
        losses.append(task_losses.detach())
        outputs.append(logits.detach())
        del task_losses, logits  # and with them the graph, before the next one is made
    means = [None if total is None else total / tasks.tasks for total in sums]
    grads = {name: g for name, g in zip(theta, means, strict=False) if g is not None}
    rate_grad = None
    if parameters > len(theta):
        mean = means[parameters - 1]
        rate_grad = torch.zeros_like(wanted[parameters - 1]) if mean is None else mean
    also = zip(wanted[parameters:], means[parameters:], strict=True)
    others = tuple((leaf, mean) for leaf, mean in also if mean is not None)
    return Outcome(torch.cat(losses), torch.cat(outputs), grads, rate_grad, others=others)


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
    tolerance = _AGREEMENT.get(loop.task_losses.dtype, 1e-4)
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
