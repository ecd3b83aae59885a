"""The calls: `meta_step`, `meta_loss`, `adapt`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmaml.definition.functional import (
    accumulate,
    predictor,
    trainable,
)
from fastmaml.definition.graphs import attach
from fastmaml.engine import binding
from fastmaml.losses import LossArgument
from fastmaml.reference import Outcome, fast_weights
from fastmaml.results import AdaptedTasks, Backend, MetaStepResult, accuracy
from fastmaml.settings import BackendChoice, Options, Precision, Recompute, check_options
from fastmaml.tasks import Pair

from .prepared import Call, compute, outcome_of, prepare, run
from .wrappers import average

__all__ = ["adapt", "meta_loss", "meta_step", "query_losses"]


def meta_step(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
    first_order: bool = False,
    backend: BackendChoice = "auto",
    recompute: Recompute = "auto",
    max_workspace_bytes: int | None = None,
    precision: Precision = "float32",
) -> MetaStepResult:
    """Add the meta-gradient of a batch of tasks to ``.grad`` of the model's parameters.

    For each task the trainable parameters take ``inner_steps`` gradient steps on the support set;
    the gradient of the mean over tasks of the query loss after these steps, taken through them,
    is added to ``.grad`` as ``backward()`` would. Then call ``optimizer.step()``.

    Args:
        model: Any module that maps ``[rows, ...]`` to ``[rows, ...]``. It is not changed, but for
            ``.grad``. Parameters with ``requires_grad=False`` take part in the forward pass, are
            not adapted and get no gradient; only these may hold integers, as buffers may. Batch
            norm in training mode (or without running statistics) uses the statistics of the rows
            of each pass; in eval mode the running statistics are constants. Running statistics are
            never updated.
        support: ``(x, y)``: x ``[T, S, ...]`` of the model's dtype (float32 or float64) and device;
            y ``[T, S]`` int64 class indices for cross-entropy, else targets of the output's shape.
        query: The same with Q rows per task.
        loss: ``"mse"``, ``"cross_entropy"``, ``"bce_with_logits"`` (mean over a task's rows), one
            of the torch loss modules, or a callable ``(logits, y) -> 0-dim tensor`` for one task.
        inner_lr: Step size of the inner loop, a number or a 0-dim tensor. A tensor that requires
            grad gets its exact meta-gradient in ``.grad`` too.
        inner_steps: K >= 0; 0 is the plain query gradient.
        first_order: True drops the second derivatives (FOMAML).
        backend: ``"auto"`` takes the fused engine where it can, else PyTorch with one warning per
            model class and reason; ``"fused"`` raises instead; ``"reference"`` always runs PyTorch.
        recompute: Whether the fused engine keeps the activations of every inner step (False), or
            only the fast weights and makes the activations again (True): a fifth more work on the
            support sets for a K-th of the memory. ``"auto"`` keeps them while they fit the limit.
            The result is bitwise the same.
        max_workspace_bytes: The most memory that the fused engine may take beside its inputs and
            outputs, for workspace and program. It then works on fewer tasks at a time, or
            recomputes. None is half of the machine's memory. See `fastmaml.workspace_bytes`.
        precision: ``"tf32"`` lets a CUDA device multiply on tensor cores in linear layers and
            convolutions of a float32 model: factors are rounded to 10 bits of mantissa, which
            leaves about three good digits; sums and all else stay float32, and bits repeat. A model
            that the engine cannot take runs on the reference, as precisely as torch is set to.

    Returns:
        The `MetaStepResult`: loss, task losses, logits and accuracy on the query sets after
        adaptation, and the backend that ran. A loss that is not finite is returned as it is.

    Raises:
        ShapeError: Data that do not fit together or to the model.
        DtypeError: Data, or a ``.grad`` to add to, of another dtype than the model's.
        DeviceError: Data on another device than the model's.
        SettingError: A setting or class index out of range, nothing to train, a ``.grad`` that
            cannot be added to, a limit that no plan keeps to, or ``precision="tf32"`` with
            ``backend="reference"``, a float64 model or one on the CPU.
        UnsupportedModelError: ``backend="fused"`` and a layer that the engine cannot take.
        BackendError: ``backend="fused"`` and no engine for the model's device.

    When a call raises, ``.grad`` is as it was.

    Source: Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, 2017, algorithms 1 and 2.

    >>> model = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 1))
    >>> x = torch.randn(25, 20, 1)
    >>> y = torch.sin(x)
    >>> support, query = (x[:, :10], y[:, :10]), (x[:, 10:], y[:, 10:])
    >>> result = meta_step(model, support, query, loss="mse", inner_lr=0.01)
    >>> result.logits.shape, result.backend
    (torch.Size([25, 10, 1]), 'fused')
    """
    where = "meta_step"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": first_order,
        "backend": backend,
        "recompute": recompute,
        "max_workspace_bytes": max_workspace_bytes,
        "precision": precision,
    }
    settings = check_options(where, options)
    call = prepare(where, model, support, query, settings, "meta_step")
    ran = compute(call, want_grad=True) if call.fit is None else run(call, call.fit)
    result = _finish(call, ran)
    # `.grad` is written last and at once: an interrupt finds all of it as it was, or done.
    if isinstance(ran, binding.Outputs):
        if call.model is model and _gave(call, ran):
            return result
        ran = outcome_of(call, ran)
    average(model, ran.all_grads())
    parameters, grads = ran.with_others(call.parameters)
    accumulate(where, parameters, settings.inner_lr, grads, ran.rate_grad)
    return result


def query_losses(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
    backend: BackendChoice = "auto",
    max_workspace_bytes: int | None = None,
    precision: Precision = "float32",
) -> MetaStepResult:
    """The numbers of `meta_step` without any gradient: ``.grad`` is left alone.

    Arguments, result and errors are those of `meta_step`.

    >>> data = torch.ones(3, 4, 2), torch.zeros(3, 4, 1)
    >>> query_losses(nn.Linear(2, 1), data, data, loss="mse").task_losses.shape
    torch.Size([3])
    """
    where = "query_losses"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "backend": backend,
        "max_workspace_bytes": max_workspace_bytes,
        "precision": precision,
        "first_order": True,
    }
    settings = check_options(where, options)
    call = prepare(where, model, support, query, settings, "evaluate")
    return _finish(call, compute(call, want_grad=False))


def meta_loss(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
    first_order: bool = False,
    backend: BackendChoice = "auto",
    recompute: Recompute = "auto",
    max_workspace_bytes: int | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """The mean query loss after adaptation as a tensor that can be differentiated once.

    For regularizers, gradient scaling and sums of several losses: ``(loss + penalty).backward()``
    fills ``.grad``. The gradient is computed in this call, except under ``torch.no_grad()``.

    Arguments and errors are those of `meta_step`.

    Returns:
        A 0-dim tensor with a graph to the trainable parameters and to an ``inner_lr`` that
        requires grad.

    >>> model = nn.Linear(2, 1)
    >>> data = torch.ones(3, 4, 2), torch.zeros(3, 4, 1)
    >>> (2.0 * meta_loss(model, data, data, loss="mse")).backward()
    >>> model.weight.grad.shape
    torch.Size([1, 2])
    """
    where = "meta_loss"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": first_order,
        "backend": backend,
        "recompute": recompute,
        "max_workspace_bytes": max_workspace_bytes,
        "precision": precision,
    }
    settings = check_options(where, options)
    graph = torch.is_grad_enabled()
    purpose: binding.Purpose = "meta_step" if graph else "evaluate"
    call = prepare(where, model, support, query, settings, purpose)
    outcome = compute(call, want_grad=graph)
    value = outcome.task_losses.mean()
    if not graph:
        return value
    average(model, outcome.all_grads())
    parameters, grads = outcome.with_others(call.parameters)
    leaves = [(parameters[name], grad) for name, grad in grads.items()]
    if outcome.rate_grad is not None and isinstance(settings.inner_lr, Tensor):
        leaves.append((settings.inner_lr, outcome.rate_grad))
    return attach(value, leaves)


def adapt(
    model: nn.Module,
    support: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
    backend: BackendChoice = "auto",
    max_workspace_bytes: int | None = None,
    precision: Precision = "float32",
) -> AdaptedTasks:
    """Run the inner loop only: one adapted copy of the trainable parameters per task.

    Arguments and errors are those of `meta_step`.

    Returns:
        The `AdaptedTasks`: ``parameters`` by name, each ``[T, ...]``, and ``predict(x)`` for new
        rows ``[T, Q, ...]`` of the same tasks.

    >>> tasks = adapt(nn.Linear(2, 1), (torch.ones(3, 4, 2), torch.zeros(3, 4, 1)), loss="mse")
    >>> tasks.parameters["weight"].shape, tasks.predict(torch.ones(3, 5, 2)).shape
    (torch.Size([3, 1, 2]), torch.Size([3, 5, 1]))
    """
    where = "adapt"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "backend": backend,
        "max_workspace_bytes": max_workspace_bytes,
        "precision": precision,
        "first_order": True,
    }
    settings = check_options(where, options)
    call = prepare(where, model, support, support, settings, "adapt")
    predict = predictor(call.model, call.tasks)
    if call.fit is None:
        parameters = fast_weights(call.model, call.tasks, settings)
        return AdaptedTasks(parameters, "reference", predict)
    ran = run(call, call.fit)
    fast = dict(zip(call.parameters, ran.tensors, strict=True))
    count = call.tasks.tasks
    parameters = {
        # What no layer uses stays as it is in every task.
        name: fast[name] if name in fast else p.detach().expand(count, *p.shape).clone()
        for name, p in trainable(where, call.model).items()
    }
    return AdaptedTasks(parameters, "fused", predict)


def _gave(call: Call, ran: binding.Outputs) -> bool:
    """Make the gradients ``.grad`` where none is there yet, as nearly always; else do nothing."""
    rate = call.settings.inner_lr
    learned = isinstance(rate, Tensor) and rate.requires_grad
    return not learned and binding.give_grads(list(call.parameters.values()), ran.tensors)


def _finish(call: Call, outcome: Outcome | binding.Outputs) -> MetaStepResult:
    """Reduce the task losses and logits to the result."""
    share = accuracy(outcome.logits, call.tasks.query_y) if call.settings.loss.classifies else None
    backend: Backend = "reference" if call.fit is None else "fused"
    return MetaStepResult(outcome.task_losses, outcome.logits, share, backend, outcome.executor)
