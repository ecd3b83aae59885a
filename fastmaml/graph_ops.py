"""Which torch calls the engine's ops stand for: one translator per op, three tables that name them.

A translator has the arguments of the torch call after the tracer itself, checks the shapes and
appends at most one node. Adding an op is one translator and its entries in `MODULES`, `FUNCTIONS`
and `METHODS`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["FUNCTIONS", "METHODS", "MODULES", "ROWS", "Builder", "Value", "function_name"]


class Rows:
    """The open number of rows, as ``x.shape[0]`` gives it; a reshape may begin with it."""

    def __fx_create_arg__(self, tracer: object) -> Rows:
        """Let torch.fx carry it as an argument."""
        return self

    def __eq__(self, other: object) -> bool:
        """Refuse to decide what only the data of a call can."""
        if other is self:
            return True
        raise TypeError("the number of rows decides what the forward does")

    __hash__ = object.__hash__


ROWS = Rows()


class Value(NamedTuple):
    """An activation: its id, row shape, and the value whose memory torch would share with it."""

    id: int
    shape: tuple[int, ...]
    root: int


class Builder(Protocol):
    """What translators need of the tracer."""

    def use(self, operand: Any) -> Value:
        """The activation in an operand; anything else stops the trace."""

    def param(self, tensor: Any) -> int:
        """Index of a parameter or buffer among the network's tensors, -1 for None."""

    def emit(
        self,
        op: str,
        inputs: tuple[Value, ...],
        shape: tuple[int, ...],
        params: tuple[int, ...] = (),
        **attrs: float,
    ) -> Value:
        """Append a node."""

    def stop(self, reason: str = "") -> NoReturn:
        """Refuse the layer that is being run."""

    def misfit(self, expected: str, got: tuple[int, ...]) -> NoReturn:
        """Report a shape that the layer being run cannot take."""


def _linear(b: Builder, input: Any, weight: Any, bias: Any = None) -> Value:
    x = b.use(input)
    w, c = b.param(weight), b.param(bias)
    out_features, in_features = weight.shape
    if not x.shape or x.shape[-1] != in_features:
        b.misfit(f"[..., {in_features}]", x.shape)
    return b.emit("linear", (x,), (*x.shape[:-1], out_features), (w, c))


def _batch_norm(
    b: Builder,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Value:
    x = b.use(input)
    if len(x.shape) != 1:
        b.stop(f" on rows of shape {list(x.shape)}")
    for tensor in (weight, bias, running_mean, running_var):
        if tensor is not None and tensor.shape != x.shape:
            b.misfit(str(list(tensor.shape)), x.shape)
    if training:  # running statistics are only written then, and this package never does
        running_mean = running_var = None
    elif running_mean is None or running_var is None:
        b.stop(" in eval mode without running statistics")
    params = tuple(b.param(tensor) for tensor in (weight, bias, running_mean, running_var))
    return b.emit("batch_norm", (x,), x.shape, params, eps=eps, batch_stats=float(training))


def _batch_norm_module(b: Builder, m: nn.BatchNorm1d, input: Any) -> Value:
    training = m.training or m.running_mean is None
    return _batch_norm(
        b, input, m.running_mean, m.running_var, m.weight, m.bias, training, m.momentum, m.eps
    )


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


def _identity(b: Builder, input: Any) -> Value:
    return b.use(input)


def _dropout(
    b: Builder, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Value:
    if training and p > 0:
        b.stop(", which drops at random in training mode")
    return b.use(input)


def _to_shape(b: Builder, input: Any, shape: tuple[int, ...]) -> Value:
    x = b.use(input)
    return x if shape == x.shape else b.emit("reshape", (x,), shape)


def _reshape(b: Builder, input: Any, *shape: Any, **named: Any) -> Value:
    x = b.use(input)
    sizes = list(named.get("shape", named.get("size", shape)))
    if len(sizes) == 1 and isinstance(sizes[0], Sequence):
        sizes = list(sizes[0])
    known = all(isinstance(size, int) for size in sizes[1:])
    if not sizes or not known or (sizes[0] is not ROWS and sizes[0] != -1):
        b.stop(", which reshapes other than row by row")
    target, numel = list(sizes[1:]), math.prod(x.shape)
    if -1 in target:
        rest = math.prod(size for size in target if size != -1)
        if sizes[0] is not ROWS or rest <= 0 or target.count(-1) > 1:
            b.stop(", which reshapes other than row by row")
        target[target.index(-1)] = numel // rest
    if math.prod(target) != numel:
        b.stop(f", which reshapes rows of shape {list(x.shape)} to {target}")
    return _to_shape(b, x, tuple(target))


def _dim(b: Builder, dim: int, dims: int) -> int:
    """A dimension counted from 0, which must not be that of the rows."""
    dim = dim + dims if dim < 0 else dim
    if not 1 <= dim < dims:
        b.stop(", which changes the dimension of the rows")
    return dim


def _flatten(b: Builder, input: Any, start_dim: int = 0, end_dim: int = -1) -> Value:
    x = b.use(input)
    dims = len(x.shape) + 1
    if dims == 1 and start_dim in (1, -1):
        b.misfit("[...] with at least one dimension", x.shape)
    first, last = _dim(b, start_dim, dims) - 1, _dim(b, end_dim, dims)
    return _to_shape(b, x, (*x.shape[:first], math.prod(x.shape[first:last]), *x.shape[last:]))


def _unflatten(b: Builder, input: Any, dim: int, sizes: Any) -> Value:
    x = b.use(input)
    at = _dim(b, dim, len(x.shape) + 1) - 1
    return _reshape(b, x, ROWS, *x.shape[:at], *sizes, *x.shape[at + 1 :])


def _unsqueeze(b: Builder, input: Any, dim: int) -> Value:
    x = b.use(input)
    at = _dim(b, dim, len(x.shape) + 2) - 1
    return _to_shape(b, x, (*x.shape[:at], 1, *x.shape[at:]))


def _squeeze(b: Builder, input: Any, dim: Any = None) -> Value:
    x = b.use(input)
    if not isinstance(dim, int):
        b.stop(", which squeezes without naming one dimension")
    at = _dim(b, dim, len(x.shape) + 1) - 1
    return _to_shape(b, x, (*x.shape[:at], *x.shape[at + 1 :])) if x.shape[at] == 1 else x


MODULES: dict[type[nn.Module], Callable[..., Value]] = {
    nn.Linear: lambda b, m, input: _linear(b, input, m.weight, m.bias),
    nn.BatchNorm1d: _batch_norm_module,
    nn.ReLU: lambda b, m, input: _relu(b, input),
    nn.LeakyReLU: lambda b, m, input: _leaky_relu(b, input, m.negative_slope),
    nn.ELU: lambda b, m, input: _elu(b, input, m.alpha),
    nn.GELU: lambda b, m, input: _gelu(b, input, m.approximate),
    nn.SiLU: lambda b, m, input: _silu(b, input),
    nn.Softplus: lambda b, m, input: _softplus(b, input, m.beta, m.threshold),
    nn.Tanh: lambda b, m, input: _tanh(b, input),
    nn.Sigmoid: lambda b, m, input: _sigmoid(b, input),
    nn.Flatten: lambda b, m, input: _flatten(b, input, m.start_dim, m.end_dim),
    nn.Unflatten: lambda b, m, input: _unflatten(b, input, m.dim, m.unflattened_size),
    nn.Identity: lambda b, m, input: _identity(b, input),
    nn.Dropout: lambda b, m, input: _dropout(b, input, m.p, m.training),
    nn.AlphaDropout: lambda b, m, input: _dropout(b, input, m.p, m.training),
}
"""Called with the builder, the module and the module's arguments."""

FUNCTIONS: dict[Any, Callable[..., Value]] = {
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    F.leaky_relu: _leaky_relu,
    F.elu: _elu,
    F.gelu: _gelu,
    F.silu: _silu,
    F.softplus: _softplus,
    F.tanh: _tanh,
    F.sigmoid: _sigmoid,
    F.dropout: _dropout,
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
    operator.add: _add,
    operator.iadd: _add,
    torch.reshape: _reshape,
    torch.flatten: _flatten,
    torch.unflatten: _unflatten,
    torch.squeeze: _squeeze,
    torch.unsqueeze: _unsqueeze,
}

METHODS: dict[Any, Callable[..., Value]] = {
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
}


def function_name(target: Any) -> str:
    """How messages call a torch function, operator or tensor method.

    >>> function_name(F.gelu), function_name(operator.mul), function_name("mean")
    ('torch.nn.functional.gelu', 'operator.mul', 'torch.Tensor.mean')
    """
    if isinstance(target, str):
        return f"torch.Tensor.{target}"
    module = getattr(target, "__module__", None) or "torch"
    module = {"torch._C._nn": "torch.nn.functional", "_operator": "operator"}.get(module, module)
    return f"{module}.{getattr(target, '__name__', target)}"
