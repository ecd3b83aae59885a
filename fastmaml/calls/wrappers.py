"""Modules around the model: what runs is the module inside, and its parameters are the same.

`torch.nn.DataParallel` and `torch.compile` change where and how a forward runs, which the engine
decides itself. `DistributedDataParallel` averages gradients over its ranks, and so do the calls.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["average", "unwrap"]


def unwrap(model: nn.Module) -> nn.Module:
    """The module within, or what was given.

    >>> inner = nn.Linear(1, 1)
    >>> unwrap(nn.DataParallel(inner)) is inner
    True
    """
    while True:
        if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
            inner = model.module
        elif type(model).__module__.startswith("torch._dynamo"):
            inner = getattr(model, "_orig_mod", None)
        else:
            return model
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def average(model: nn.Module, gradients: Iterable[Tensor]) -> None:
    """Make gradients of a model their mean over its ranks, if it has any, in place."""
    if isinstance(model, DistributedDataParallel):
        group = model.process_group
        ranks = torch.distributed.get_world_size(group)
        for gradient in gradients:
            torch.distributed.all_reduce(gradient, group=group)
            gradient /= ranks
