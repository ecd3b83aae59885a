"""Autograd's graphs: what one holds, and one around numbers that are known already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["attach", "nodes_of", "reaches"]


def nodes_of(tensor: Tensor) -> set[Any]:
    """The nodes of a tensor's graph, those of its leaves among them."""
    seen, waiting = set[Any](), [tensor.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return seen


def reaches(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """Whether the graph of a tensor holds the node of another one, or of what was made with it.

    >>> import torch
    >>> a, b = torch.ones(2, requires_grad=True)[:], torch.ones((), requires_grad=True)
    >>> reaches((a * 2).sum(), [a]), reaches(a * 2, [b])
    (True, False)
    """
    nodes = nodes_of(tensor)
    leaves = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    return any(id(other) in leaves or other.grad_fn in nodes for other in others)


def attach(value: Tensor, leaves: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A computed value with a graph: to tensors whose gradients, beside them, are already known."""
    attached: Tensor = _Attach.apply(  # type: ignore[no-untyped-call]
        value, [grad for _, grad in leaves], *(tensor for tensor, _ in leaves)
    )
    return attached


class _Attach(torch.autograd.Function):
    """The node of such a graph."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*grads)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(upstream * grad for grad in ctx.saved_tensors))
