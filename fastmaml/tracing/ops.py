"""Which torch calls the engine's ops stand for: one translator per op, two tables that name them.

A translator has the arguments of the torch call after the recorder itself, checks the shapes and
appends at most one node. Adding an op is one translator and its entries in `FUNCTIONS` and
`METHODS`; layers of torch's call functions, and need no entry. Those of images and of
normalisations stand with their own tables in `windows` and `norms`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import norms, windows
from .network import Builder, Held, Value, dim_of, to_shape

__all__ = ["FUNCTIONS", "METHODS", "Builder", "Value", "function_name"]


def _linear(b: Builder, input: Any, weight: Any, bias: Any = None) -> Value:
    x = b.use(input)
    w, c = b.param(weight), b.param(bias)
    out_features, in_features = weight.shape
    if not x.shape or x.shape[-1] != in_features:
        b.misfit(f"[..., {in_features}]", x.shape)
    return b.emit("linear", (x,), (*x.shape[:-1], out_features), (w, c))


def _pointwise(b: Builder, op: str, input: Any, **attrs: float) -> Value:
    x = b.use(input)
    return b.emit(op, (x,), x.shape, (), **attrs)


def _relu(b: Builder, input: Any, inplace: bool = False) -> Value:
    return _pointwise(b, "relu", input)


def _leaky_relu(
    b: Builder, input: Any, negative_slope: float = 0.01, inplace: bool = False
) -> Value:
    return _pointwise(b, "leaky_relu", input, negative_slope=float(negative_slope))


def _elu(b: Builder, input: Any, alpha: float = 1.0, inplace: bool = False) -> Value:
    return _pointwise(b, "elu", input, alpha=float(alpha))


def _gelu(b: Builder, input: Any, approximate: str = "none") -> Value:
    if approximate not in ("none", "tanh"):
        b.stop(f" with approximate={approximate!r}")
    return _pointwise(b, "gelu", input, tanh=float(approximate == "tanh"))


def _silu(b: Builder, input: Any, inplace: bool = False) -> Value:
    return _pointwise(b, "silu", input)


def _softplus(b: Builder, input: Any, beta: float = 1.0, threshold: float = 20.0) -> Value:
    return _pointwise(b, "softplus", input, beta=float(beta), threshold=float(threshold))


def _tanh(b: Builder, input: Any) -> Value:
    return _pointwise(b, "tanh", input)


def _sigmoid(b: Builder, input: Any) -> Value:
    return _pointwise(b, "sigmoid", input)


def _add(b: Builder, input: Any, other: Any, *, alpha: float = 1) -> Value:
    x, y = b.use(input), b.use(other)
    if alpha != 1:
        b.stop(f", which adds with alpha={alpha}")
    if x.shape != y.shape:
        b.stop(f", which adds rows of shapes {list(x.shape)} and {list(y.shape)}")
    return b.emit("add", (x, y), x.shape)


def _concat(b: Builder, tensors: Any, dim: int = 0) -> Value:
    values = tuple(b.use(tensor) for tensor in tensors)
    first = values[0].shape
    if dim_of(b, dim, len(first) + 1) != 1:
        b.stop(f", which concatenates along dimension {dim}")
    if any(len(x.shape) != len(first) or x.shape[1:] != first[1:] for x in values):
        b.stop(f", which concatenates rows of shapes {[list(x.shape) for x in values]}")
    return b.emit("concat", values, (sum(x.shape[0] for x in values), *first[1:]))


def _identity(b: Builder, input: Any) -> Value:
    return b.use(input)


def _to(b: Builder, input: Any, *args: Any, **kwargs: Any) -> Value:
    """Where nothing changes: device and dtype are the model's."""
    for given in (*args, *kwargs.values()):
        if isinstance(given, (str, torch.device)) or type(given) is int:
            there = torch.device(given)
            same = (there.type, there.index or 0) == (b.device.type, b.device.index or 0)
            if not same:
                b.stop(f", which moves to {there}")
        if isinstance(given, torch.dtype) and given is not b.dtype:
            b.stop(f", which casts to {given}")
        if isinstance(given, Held) and given.dtype is not b.dtype:
            b.stop(f", which casts to {given.dtype}")
    return b.use(input)


def _dropout(
    b: Builder, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Value:
    if training and p > 0:
        b.stop(", which drops at random in training mode")
    return b.use(input)


def _reshape(b: Builder, input: Any, *shape: Any, **named: Any) -> Value:
    x = b.use(input)
    sizes = list(named.get("shape", named.get("size", shape)))
    if len(sizes) == 1 and isinstance(sizes[0], Sequence):
        sizes = list(sizes[0])
    if not sizes or not all(isinstance(size, int) for size in sizes):
        b.stop(", which reshapes other than row by row")
    if sizes[0] not in (b.rows, -1):
        b.stop(", which reshapes other than row by row")
    b.knows_rows = b.knows_rows or sizes[0] != -1
    target, numel = list(sizes[1:]), math.prod(x.shape)
    if -1 in target:
        rest = math.prod(size for size in target if size != -1)
        if sizes[0] == -1 or rest <= 0 or target.count(-1) > 1:
            b.stop(", which reshapes other than row by row")
        target[target.index(-1)] = numel // rest
    if math.prod(target) != numel:
        b.stop(f", which reshapes rows of shape {list(x.shape)} to {target}")
    return to_shape(b, x, tuple(target))


def _flatten(b: Builder, input: Any, start_dim: int = 0, end_dim: int = -1) -> Value:
    x = b.use(input)
    dims = len(x.shape) + 1
    if dims == 1 and start_dim in (1, -1):
        b.misfit("[...] with at least one dimension", x.shape)
    first, last = dim_of(b, start_dim, dims) - 1, dim_of(b, end_dim, dims)
    return to_shape(b, x, (*x.shape[:first], math.prod(x.shape[first:last]), *x.shape[last:]))


def _unflatten(b: Builder, input: Any, dim: int, sizes: Any) -> Value:
    x = b.use(input)
    at = dim_of(b, dim, len(x.shape) + 1) - 1
    return _reshape(b, x, b.rows, *x.shape[:at], *sizes, *x.shape[at + 1 :])


def _unsqueeze(b: Builder, input: Any, dim: int) -> Value:
    x = b.use(input)
    at = dim_of(b, dim, len(x.shape) + 2) - 1
    return to_shape(b, x, (*x.shape[:at], 1, *x.shape[at:]))


def _squeeze(b: Builder, input: Any, dim: Any = None) -> Value:
    x = b.use(input)
    if not isinstance(dim, int):
        b.stop(", which squeezes without naming one dimension")
    at = dim_of(b, dim, len(x.shape) + 1) - 1
    return to_shape(b, x, (*x.shape[:at], *x.shape[at + 1 :])) if x.shape[at] == 1 else x


FUNCTIONS: dict[Any, Callable[..., Value]] = {
    F.linear: _linear,
    **windows.FUNCTIONS,
    **norms.FUNCTIONS,
    torch.cat: _concat,
    torch.concat: _concat,
    torch.concatenate: _concat,
    F.relu: _relu,
    F.leaky_relu: _leaky_relu,
    F.elu: _elu,
    F.gelu: _gelu,
    F.silu: _silu,
    F.softplus: _softplus,
    F.tanh: _tanh,
    F.sigmoid: _sigmoid,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    F.alpha_dropout: _dropout,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.leaky_relu_: _leaky_relu,
    F.elu_: _elu,
    torch.tanh: _tanh,
    torch.tanh_: _tanh,
    torch.sigmoid: _sigmoid,
    torch.sigmoid_: _sigmoid,
    torch.special.expit: _sigmoid,
    torch.dropout: lambda b, input, p, train: _dropout(b, input, p, train),
    torch.add: _add,
    torch.reshape: _reshape,
    torch.flatten: _flatten,
    torch.unflatten: _unflatten,
    torch.squeeze: _squeeze,
    torch.unsqueeze: _unsqueeze,
}

_METHODS: dict[str, Callable[..., Value]] = {
    "relu": _relu,
    "relu_": _relu,
    "tanh": _tanh,
    "tanh_": _tanh,
    "sigmoid": _sigmoid,
    "sigmoid_": _sigmoid,
    "add": _add,
    "add_": _add,
    "view": _reshape,
    "reshape": _reshape,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "contiguous": _identity,
    "clone": _identity,
    "to": _to,
    **windows.METHODS,
}
METHODS: dict[Any, Callable[..., Value]] = {
    getattr(Tensor, name): translator for name, translator in _METHODS.items()
}


CALLED: frozenset[Any] = frozenset(
    function
    for function, translator in (*FUNCTIONS.items(), *METHODS.items())
    if translator in (_reshape, _flatten, _unflatten, _squeeze, _unsqueeze, _identity, _dropout)
)
"""Of these a trace needs more than the shape of what they give: it may be a view."""
_PLACES = {
    function: list(inspect.signature(translator).parameters).index("inplace") - 1
    for function, translator in FUNCTIONS.items()
    if "inplace" in inspect.signature(translator).parameters
}


def is_in_place(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call writes its first operand."""
    if function_name(function).endswith("_"):
        return True
    place = _PLACES.get(function, len(args))
    return bool(args[place] if place < len(args) else kwargs.get("inplace", False))


def function_name(function: Any) -> str:
    """How messages call what a `TorchFunctionMode` sees: a function, a method, an attribute.

    >>> function_name(F.gelu), function_name(Tensor.mul), function_name(Tensor.T.__get__)
    ('torch.nn.functional.gelu', 'torch.Tensor.mul', 'torch.Tensor.T')
    """
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__", "__delete__"):
        return f"torch.Tensor.{getattr(function.__self__, '__name__', name)}"
    if getattr(Tensor, name, None) is function:
        return f"torch.Tensor.{name}"
    module = getattr(function, "__module__", None) or "torch"
    return f"{ {'torch._C._nn': 'torch.nn.functional'}.get(module, module) }.{name}"
