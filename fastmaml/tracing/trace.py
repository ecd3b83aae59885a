"""From `torch.nn.Module` to a network of the engine's ops, by one run of its forward.

The forward runs on a copy of the model whose tensors have no memory (torch's meta device), under a
`TorchFunctionMode` that sees each torch call: it is looked up in the tables of
`fastmaml.tracing.ops` and appended to the network. The model's code meets tensors in everything but
their numbers, and as many rows as it will be given. It stops, with the name of the layer, at a call
that no table holds, where numbers are asked for, and where autograd would not record what the
engine would derive. What has been stopped stays so: a `try` of the model's own changes nothing.

Value 0 is the input of the network; node i produces value i + 1. A shape is that of one row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastmaml.definition.copies import ModelCopy
from fastmaml.errors import UnsupportedModelError
from fastmaml.modes import grad_mode
from fastmaml.readable import obstacle, readable

from .network import Network, Node, TensorSpec, layer_name
from .recorder import Recorder
from .untouched import untouched
from .watch import Watch

__all__ = ["Network", "Node", "TensorSpec", "layer_name", "trace"]

_ROWS = 7  # of a trace that is not for certain data


def trace(
    model: nn.Module,
    row_shape: tuple[int, ...],
    where: str = "trace",
    rows: tuple[int, ...] = (_ROWS,),
    watch: Watch | None = None,
) -> Network:
    """Turn a model into a network of ops.

    The trace depends on the structure of the model, on ``training`` and ``requires_grad`` flags
    and on the settings of its layers; it reads no parameter's value and changes nothing.

    Args:
        model: The module; every op must keep the rows apart, but for batch statistics.
        row_shape: Shape of one row of the input.
        where: The call that texts of `ShapeError` begin with.
        rows: The numbers of rows that it will be given.
        watch: What its forward reads, where that is known.

    Returns:
        The network. A parameter shared between layers appears once, dead nodes do not.

    Raises:
        UnsupportedModelError: The text is the name of the layer or function that cannot be taken.
        ShapeError: A layer cannot take the shape that reaches it.

    >>> network = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (3,))
    >>> [(node.op, node.params, node.shape) for node in network.nodes]
    [('linear', (0, 1), (4,)), ('relu', (), (4,))]
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"{type(model).__name__}, which is not a torch.nn.Module")
    _check_modules(model)
    reason = (watch or Watch(model)).reason
    if reason is not None:
        raise UnsupportedModelError(f"{layer_name('', model)}, whose forward {reason}")
    network = _record(model, tuple(row_shape), where, rows[0])
    for count in {*rows} - {rows[0]} if network.knows_rows else ():
        if _record(model, tuple(row_shape), where, count) != network:
            raise UnsupportedModelError(
                f"{layer_name('', model)}, whose forward depends on the number of rows"
            )
    return network


def _record(model: nn.Module, row_shape: tuple[int, ...], where: str, rows: int) -> Network:
    """One run."""
    own: list[Tensor] = sorted(model.parameters(), key=lambda p: not p.requires_grad)
    first = own[0] if own else torch.zeros(())
    with grad_mode():
        x = torch.empty(rows, *row_shape, dtype=first.dtype, device="meta")
        twin = ModelCopy(model, _without_memory).module
        recorder = Recorder(twin, x, first.device, where)
        watch = Watch(twin)
        with untouched(twin):
            network = recorder.network(recorder.run())
    if not watch.holds():
        raise UnsupportedModelError(f"{layer_name('', model)}, whose forward changes what it reads")
    return network


def _without_memory(tensor: Tensor) -> Tensor:
    """What stands in the model in the place of a tensor."""
    found = None if readable(tensor) else obstacle(tensor)
    if found is not None:
        raise UnsupportedModelError(f"a model that holds {found.came}, which is not {found.wanted}")
    twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin.requires_grad_(tensor.requires_grad)


def _check_modules(model: nn.Module) -> None:
    """Refuse what a trace would silently leave out."""
    registry = nn.modules.module
    if (
        registry._global_forward_hooks
        or registry._global_forward_pre_hooks
        or registry._global_backward_hooks
        or registry._global_backward_pre_hooks
    ):
        raise UnsupportedModelError(f"{layer_name('', model)} under global module hooks")
    for path, module in model.named_modules():
        name = layer_name(path, module)
        if nn.utils.parametrize.is_parametrized(module):
            raise UnsupportedModelError(f"{name} with parametrizations")
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnsupportedModelError(f"{name} with forward hooks")
        if module._backward_hooks or module._backward_pre_hooks:
            raise UnsupportedModelError(f"{name} with backward hooks")
        if isinstance(module, torch.jit.ScriptModule):
            raise UnsupportedModelError(f"{name}, which is compiled")
        own = module.parameters(recurse=False)
        if any(p.requires_grad and not isinstance(p, nn.Parameter) for p in own):
            raise UnsupportedModelError(
                f"{name}, whose parameters are plain tensors, as functional_call puts them"
            )
        if any(nn.parameter.is_lazy(p) for p in module.parameters(recurse=False)):
            raise UnsupportedModelError(f"{name}, whose parameters wait for its first input")
