"""The same meta-step in another order: other draws of torch's rounding for the same numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from networks import Workload
from torch import Tensor, nn

from fastmaml import reference
from fastmaml.results import MetaStepResult


class Answer(NamedTuple):
    """What a meta-step says about one workload."""

    task_losses: Tensor
    logits: Tensor
    grad: Tensor  # of all parameters, as one vector


def answer(model: nn.Module, result: MetaStepResult) -> Answer:
    """A result and what lies in ``.grad``, which is then cleared."""
    found = [p.grad for p in model.parameters() if p.grad is not None]
    for p in model.parameters():
        p.grad = None
    return Answer(result.task_losses, result.logits, torch.cat([g.flatten() for g in found]))


def reordered(load: Workload, dtype: torch.dtype, seed: int) -> Answer:
    """The reference's answer with rows, input features and hidden features in another order.

    Every sum over rows or features then runs in that order; the answer is put back into ours.
    """
    generator = torch.Generator().manual_seed(seed)

    def order(count: int) -> Tensor:
        return torch.randperm(count, generator=generator)

    orders = [*map(order, (load.inputs, *load.widths)), torch.arange(load.outputs)]
    rows = [order(load.support_rows), order(load.query_rows)]
    back = [o.argsort() for o in orders]
    model = load.model()
    for name, tensor in model.state_dict().items():
        tensor.copy_(_select(load, name, tensor, orders))
    data = [
        (x[:, row][..., orders[0]], y[:, row])
        for (x, y), row in zip(load.data(dtype), rows, strict=True)
    ]
    result = reference.meta_step(model.to(dtype), *data, **load.settings())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parameter.grad = _select(load, name, parameter.grad, back)
    found = answer(model, result)
    return found._replace(logits=found.logits[:, rows[1].argsort()])


def _select(load: Workload, name: str, tensor: Tensor, orders: list[Tensor]) -> Tensor:
    """One of `RandomNet`'s tensors with each dimension in the order of the features it counts."""
    part, place, *_ = name.split(".")
    last = len(load.widths)
    features = {"square": (last, last), "head": (last + 1, last)}.get(part)
    if features is None:
        features = (int(place) + 1, int(place))
    for dim, which in zip(range(tensor.dim()), features, strict=False):
        tensor = tensor.index_select(dim, orders[which])
    return tensor
