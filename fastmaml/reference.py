"""The paper's algorithm in plain PyTorch, and the only oracle.

For one task, with K inner steps and the step size alpha::

    phi[0] = theta
    for k in 0..K-1:   phi[k+1] = phi[k] - alpha * grad_S(phi[k])
    meta_grad += derivative of the query loss at phi[K] with respect to theta

autograd differentiates through the inner loop: ``create_graph`` keeps the second derivatives that
`first_order` drops. Tasks run one after another, and the graph of one is gone before the next one
begins.

Source: Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, 2017, algorithm 1 and 2.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .calls.wrappers import average, unwrap
from .definition.derivatives import derived_twice
from .definition.functional import Function, accumulate, leaf, model_kind, predictor, trainable
from .definition.graphs import nodes_of
from .definition.inner_loop import inner_loop, query_losses
from .losses import LossArgument
from .modes import grad_mode
from .results import AdaptedTasks, MetaStepResult, accuracy
from .settings import Options, Settings, check_options
from .tasks import Pair, Tasks, validate

__all__ = [
    "Outcome",
    "adapt",
    "added",
    "compute",
    "fast_weights",
    "finish",
    "meta_loss",
    "meta_step",
    "model_kind",
    "other_leaves",
    "predictor",
    "trainable",
]


class Outcome(NamedTuple):
    """What a meta-step computes; gradients are those of the mean over tasks."""

    task_losses: Tensor  # [T]
    logits: Tensor  # [T, Q, ...]
    grads: dict[str, Tensor]  # by parameter name; parameters that nothing depends on are absent
    rate_grad: Tensor | None  # [], only for an inner_lr that requires grad
    executor: str = "torch"  # see MetaStepResult
    others: tuple[tuple[Tensor, Tensor], ...] = ()  # leaves that are none of the model's parameters

    def all_grads(self) -> list[Tensor]:
        """Every gradient in it."""
        rate = [] if self.rate_grad is None else [self.rate_grad]
        return [*self.grads.values(), *rate, *(grad for _, grad in self.others)]

    def with_others(
        self, parameters: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and gradients by name, those of other leaves among them."""
        named = {f"tensor {i} of loss or model": pair for i, pair in enumerate(self.others)}
        leaves = {name: leaf for name, (leaf, _) in named.items()}
        return parameters | leaves, self.grads | {name: grad for name, (_, grad) in named.items()}


def meta_step(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
    first_order: bool = False,
) -> MetaStepResult:
    """Add the meta-gradient of a batch of tasks to ``.grad``: the definition.

    Arguments, result and errors are those of `fastmaml.meta_step`, which has more of them.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> x, y = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    >>> result = meta_step(model, (x, y), (x, y), loss="mse", inner_lr=0.25)
    >>> result.loss, model.weight.grad  # w - 0.25 * 2w = w/2; (w/2)^2 has the derivative w/2
    (tensor(0.2500), tensor([[0.5000]]))
    """
    where = "meta_step"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": first_order,
    }
    settings = check_options(where, options)
    replicas, model = model, unwrap(model)
    dtype, device = model_kind(where, model)
    tasks = validate(where, support, query, dtype=dtype, device=device, loss=settings.loss)
    outcome = compute(model, tasks, settings, want_grad=True, where=where)
    average(replicas, outcome.all_grads())
    parameters, grads = outcome.with_others(trainable(where, model))
    result = finish(tasks, settings, outcome)
    accumulate(where, parameters, settings.inner_lr, grads, outcome.rate_grad)
    return result


def meta_loss(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
    first_order: bool = False,
) -> Tensor:
    """The mean query loss after adaptation, with its graph to the parameters and ``inner_lr``.

    Arguments and errors are those of `meta_step`.

    Returns:
        A 0-dim tensor.

    >>> model = nn.Linear(2, 1)
    >>> data = torch.ones(3, 4, 2), torch.zeros(3, 4, 1)
    >>> meta_loss(model, data, data, loss="mse").backward()
    """
    where = "meta_loss"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": first_order,
    }
    settings = check_options(where, options)
    dtype, device = model_kind(where, model)
    tasks = validate(where, support, query, dtype=dtype, device=device, loss=settings.loss)
    with grad_mode():
        theta = trainable(where, model)
        function = Function(model, theta, tasks, settings.loss, where)
        run = partial(query_losses, function, function.loss, every_step=False)
        ran = [run(dict(theta), settings, _of_task(tasks, t)) for t in range(tasks.tasks)]
        return torch.stack([task_loss for task_loss, _ in ran]).mean()


def adapt(
    model: nn.Module,
    support: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
) -> AdaptedTasks:
    """Run the inner loop only.

    Arguments and errors are those of `meta_step`.

    Returns:
        The fast weights of each task, which predict on new rows of their task.

    >>> model = nn.Linear(2, 1)
    >>> tasks = adapt(model, (torch.ones(3, 4, 2), torch.zeros(3, 4, 1)), loss="mse")
    >>> tasks.parameters["weight"].shape, tasks.predict(torch.ones(3, 5, 2)).shape
    (torch.Size([3, 1, 2]), torch.Size([3, 5, 1]))
    """
    where = "adapt"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": True,
    }
    settings = check_options(where, options)
    dtype, device = model_kind(where, model)
    tasks = validate(where, support, support, dtype=dtype, device=device, loss=settings.loss)
    parameters = fast_weights(model, tasks, settings, where=where)
    return AdaptedTasks(parameters, "reference", predictor(model, tasks))


def compute(
    model: nn.Module,
    tasks: Tasks,
    settings: Settings,
    *,
    want_grad: bool,
    where: str = "meta_step",
    every_step: bool = False,
) -> Outcome:
    """Run a meta-step on checked data, and leave ``.grad`` alone.

    Args:
        model: The module.
        tasks: What `validate` returned.
        settings: What `check_options` returned.
        want_grad: False computes losses and logits only.
        where: The call that error texts begin with.
        every_step: Gives losses ``[T, K + 1]`` and logits ``[T, K + 1, Q, ...]``, those after
            0, 1, ..., K inner steps; without gradients.

    Returns:
        The `Outcome`, without a graph; without ``want_grad`` it has no gradients.

    Raises:
        ShapeError: The model's output does not fit rows or targets.
        SettingError: A class index out of range, or nothing to train.
    """
    if not want_grad:
        settings = settings._replace(first_order=True)
    twice = settings.inner_steps > 0 and not settings.first_order
    run = partial(_compute, model, tasks, settings, want_grad, where, every_step)
    return derived_twice(where, model, run, twice=twice)


def _compute(
    model: nn.Module,
    tasks: Tasks,
    settings: Settings,
    want_grad: bool,
    where: str,
    every_step: bool,
) -> Outcome:
    """One task after another, with the graph of one at a time."""
    with grad_mode():
        own = trainable(where, model)
        theta = {name: leaf(p, True) for name, p in own.items()}
        leaves = list(theta.values())
        alpha = settings.inner_lr
        learned = want_grad and isinstance(alpha, Tensor) and alpha.requires_grad
        if isinstance(alpha, Tensor):
            alpha = leaf(alpha, learned)
            settings = settings._replace(inner_lr=alpha)
            leaves += [alpha] if learned else []
        others: list[Tensor] = []
        sums: list[Tensor | None] = []
        losses: list[Tensor] = []
        outputs: list[Tensor] = []
        function = Function(model, own, tasks, settings.loss, where)
        run = partial(query_losses, function, function.loss, every_step=every_step)
        for t in range(tasks.tasks):
            loss, logits = run(dict(theta), settings, _of_task(tasks, t))
            if want_grad and not losses and function.has_others:
                others = other_leaves(loss, leaves)
                sums = [None] * len(others)
            losses.append(loss.detach())
            outputs.append(logits.detach())
            if want_grad and loss.requires_grad:
                sums = _add_gradients(loss, 1 / tasks.tasks, leaves, others, sums)
            del loss, logits  # and with them the graph, before the next one is made
    grads = {name: p.grad for name, p in theta.items() if p.grad is not None}
    rate_grad = None
    if learned and isinstance(alpha, Tensor):
        rate_grad = torch.zeros_like(alpha.detach()) if alpha.grad is None else alpha.grad
    also = tuple((leaf, g) for leaf, g in zip(others, sums, strict=True) if g is not None)
    return Outcome(torch.stack(losses), torch.stack(outputs), grads, rate_grad, others=also)


def _add_gradients(
    loss: Tensor,
    share: float,
    leaves: list[Tensor],
    others: list[Tensor],
    sums: list[Tensor | None],
) -> list[Tensor | None]:
    """Add a task's share of the mean's gradient to ``.grad`` of the leaves, which are ours.

    So no more than one tensor of it waits to be added. What belongs to somebody else keeps its
    ``.grad``: its gradients are summed apart, and returned.
    """
    loss = loss * share  # a gradient for backward to begin with makes torch import 34 MiB of sympy
    if not others:
        torch.autograd.backward(loss, inputs=leaves)
        return sums
    both = [*leaves, *others]
    grads = torch.autograd.grad(loss, both, allow_unused=True)
    for tensor, grad in zip(leaves, grads, strict=False):
        tensor.grad = added(tensor.grad, grad)
    return [added(*pair) for pair in zip(sums, grads[len(leaves) :], strict=True)]


def added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Sum of two gradients of which either may be absent."""
    return b if a is None else a if b is None else a + b


def other_leaves(loss: Tensor, known: list[Tensor]) -> list[Tensor]:
    """Leaves of a loss's graph that require grad and are not known: a learned temperature, say."""
    nodes = (node for node in nodes_of(loss) if hasattr(node, "variable"))
    found: dict[int, Tensor] = {id(node.variable): node.variable for node in nodes}
    for tensor in known:
        found.pop(id(tensor), None)
    return list(found.values())


def fast_weights(
    model: nn.Module, tasks: Tasks, settings: Settings, *, where: str = "adapt"
) -> dict[str, Tensor]:
    """The trainable parameters after the inner loop on the support sets, each ``[T, ...]``."""
    settings = settings._replace(first_order=True)
    with grad_mode():
        own = trainable(where, model)
        function = Function(model, own, tasks, settings.loss, where)
        theta = {name: leaf(p, True) for name, p in own.items()}
        adapted = []
        for t in range(tasks.tasks):
            phi = dict(theta)
            data = tasks.support_x[t], tasks.support_y[t]
            inner_loop(function, function.loss, phi, settings, *data)
            adapted.append(phi)
        return {name: torch.stack([phi.pop(name).detach() for phi in adapted]) for name in theta}


def _of_task(tasks: Tasks, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support x and y, query x and y of a task."""
    return tasks.support_x[t], tasks.support_y[t], tasks.query_x[t], tasks.query_y[t]


def finish(tasks: Tasks, settings: Settings, outcome: Outcome) -> MetaStepResult:
    """The result of a meta-step that ran in PyTorch."""
    correct = accuracy(outcome.logits, tasks.query_y) if settings.loss.classifies else None
    return MetaStepResult(outcome.task_losses, outcome.logits, correct, "reference")
