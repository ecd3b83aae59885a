"""What a translator from torch to the engine's ops is given, and what all of them share."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn, Protocol

__all__ = ["ROWS", "Builder", "Rows", "Value", "dim_of", "to_shape"]


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
