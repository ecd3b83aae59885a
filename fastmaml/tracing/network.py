"""A network of the engine's ops, and what all translators from torch to it share."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn, Protocol

from torch import Tensor, nn

__all__ = [
    "Builder",
    "Held",
    "Network",
    "Node",
    "TensorSpec",
    "Value",
    "dim_of",
    "layer_name",
    "to_shape",
]


class TensorSpec(NamedTuple):
    """A parameter or buffer of the model: its qualified name, its shape, and its roles."""

    name: str
    shape: tuple[int, ...]
    adapted: bool  # moves in the inner loop
    trained: bool  # has a meta-gradient


class Node(NamedTuple):
    """One op: its input values, its parameters (-1: absent) and its output's row shape."""

    op: str
    inputs: tuple[int, ...]
    params: tuple[int, ...]
    attrs: dict[str, float]
    shape: tuple[int, ...]
    name: str


class Network(NamedTuple):
    """A model as a graph of ops; ``output`` is the id of the value that it returns.

    ``knows_rows`` says whether the forward has asked for the number of its rows, or named one.
    """

    row_shape: tuple[int, ...]
    tensors: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    output: int
    knows_rows: bool = True


def layer_name(path: str, module: nn.Module) -> str:
    """How messages call a layer: "layer `path` (torch.nn.Class)", or "model (Class)" at the root.

    >>> layer_name("attn", nn.Softmax())
    'layer `attn` (torch.nn.Softmax)'
    """
    kind = type(module)
    origin = "torch.nn" if kind.__module__.startswith("torch.nn.modules") else kind.__module__
    what = f"layer `{path}`" if path else "model"
    return f"{what} ({origin}.{kind.__qualname__})"


class Held:
    """A tensor that is no activation; its numbers are none of the trace's business."""

    def __init__(self, tensor: Tensor) -> None:
        """Keep it."""
        self.tensor, self.shape, self.dtype = tensor, tuple(tensor.shape), tensor.dtype


class Value(NamedTuple):
    """An activation: its id and row shape."""

    id: int
    shape: tuple[int, ...]


class Builder(Protocol):
    """What translators need of the tracer."""

    rows: int  # that the model was given
    knows_rows: bool  # whether the forward has asked, or named a number
    dtype: Any  # of its input
    device: Any  # of the model

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


def to_shape(b: Builder, input: Any, shape: tuple[int, ...]) -> Value:
    """The same numbers as rows of another shape."""
    x = b.use(input)
    return x if shape == x.shape else b.emit("reshape", (x,), shape)


def dim_of(b: Builder, dim: int, dims: int) -> int:
    """A dimension counted from 0, which must not be that of the rows."""
    dim = dim + dims if dim < 0 else dim
    if not 1 <= dim < dims:
        b.stop(", which changes the dimension of the rows")
    return dim
