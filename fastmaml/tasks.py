"""Support and query sets, checked once at the door.

Behind this door nothing is checked again: kernels and the reference rely on what `validate` and
`check_output` let through, and on the checked `Settings`. Letters: T tasks, S support rows,
Q query rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from .engine import binding
from .errors import DeviceError, DtypeError, SettingError, ShapeError
from .losses import Loss
from .readable import check_place, check_readable

__all__ = [
    "Pair",
    "Tasks",
    "check_classes",
    "check_output",
    "check_targets",
    "validate",
    "validate_inputs",
]

Pair = Sequence[Tensor]
"""A support or query argument: ``(x, y)``, x ``[T, n, ...]``, y ``[T, n]`` or ``[T, n, D]``."""

_INDICES = ", or, where x holds indices such as token ids, give the model their embeddings as x"
_CASTS = {torch.float32: "float", torch.float64: "double", torch.int64: "long"}


class Tasks(NamedTuple):
    """A dense batch of tasks that passed the door.

    Attributes:
        support_x: ``[T, S, *row_shape]``, dtype and device of the model; any strides.
        support_y: Class indices ``[T, S]`` (int64), or targets ``[T, S, ...]`` of x's dtype.
        query_x: ``[T, Q, *row_shape]``.
        query_y: As ``support_y`` with Q rows.
        tasks: T, at least 1.
        support_rows: S, at least 1.
        query_rows: Q, at least 1.
        row_shape: Shape of one row of x.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    tasks: int
    support_rows: int
    query_rows: int
    row_shape: tuple[int, ...]


def validate(
    where: str,
    support: Pair,
    query: Pair,
    *,
    dtype: torch.dtype,
    device: torch.device,
    loss: Loss,
) -> Tasks:
    """Check the support and query sets of a call.

    Reads only metadata: neither copies nor touches data, whatever the strides.

    Args:
        where: The call that error texts begin with.
        support: ``(x, y)``: x ``[T, S, ...]``, y as the loss needs it.
        query: The same with Q rows; the very same object where the support set stands in for it.
        dtype: Of the model's parameters.
        device: Of the model's parameters.
        loss: The resolved loss.

    Returns:
        The `Tasks`.

    Raises:
        ShapeError: Ranks, task counts, row counts or row shapes that do not fit, a list of tasks.
        DtypeError: x or y of another dtype than the model and the loss need.
        DeviceError: Data on another device than the model.
        SettingError: Data that requires grad, or that is no dense tensor.
    """
    judged = loss.classifies, loss.op is None and not loss.classifies
    found = binding.passing(support, query, dtype, device, *judged)
    if found is not None:
        return Tasks._make(found)
    return _judge(where, support, query, dtype, device, loss)


def _judge(
    where: str, support: Pair, query: Pair, dtype: torch.dtype, device: torch.device, loss: Loss
) -> Tasks:
    """The same in Python: what `binding.passing` cannot tell, and the words for what is wrong."""
    support_x, support_y = _pair(where, "support", support)
    query_x, query_y = _pair(where, "query", query)
    for side, x, y in (("support", support_x, support_y), ("query", query_x, query_y)):
        check_readable(where, f"{side} x", x)
        check_readable(where, f"{side} y", y)
    if dtype is not torch.float32 and dtype is not torch.float64:
        raise DtypeError(
            f"{where}: model parameters must be torch.float32 or torch.float64, got {dtype}; "
            "call model.float()."
        )
    _check_x(where, "support", support_x, dtype, device)
    shape = support_x.shape
    _check_y(where, "support", support_y, shape, dtype, device, loss)
    other = shape
    if query is not support:
        _check_x(where, "query", query_x, dtype, device)
        other = query_x.shape
        _check_same_rows(where, other, shape)
        _check_y(where, "query", query_y, other, dtype, device, loss)
    return Tasks(support_x, support_y, query_x, query_y, shape[0], shape[1], other[1], shape[2:])


def validate_inputs(where: str, x: Tensor, *, like: Tasks) -> None:
    """Check inputs for adapted tasks: ``[T, any number of rows, *row_shape]``.

    Raises:
        ShapeError: Another task count or row shape than the support set, no rows, no tensor.
        DtypeError: Another dtype.
        DeviceError: Another device.
        SettingError: Data that requires grad, or that is not dense.
    """
    if not isinstance(x, Tensor):
        raise ShapeError(f"{where}: query x must be a dense tensor, got {type(x).__name__}.")
    check_place(where)
    check_readable(where, "query x", x)
    _check_x(where, "query", x, like.support_x.dtype, like.support_x.device)
    _check_same_rows(where, x.shape, like.support_x.shape)


def _check_same_rows(where: str, shape: torch.Size, like: torch.Size) -> None:
    """The query's task count and row shape are the support's."""
    if shape[0] != like[0] or shape[2:] != like[2:]:
        expected = _dims(f"T={like[0]}", "Q", *like[2:])
        raise ShapeError(f"{where}: query x must be {expected} like support x, got {list(shape)}.")


def _pair(where: str, side: str, pair: Any) -> tuple[Tensor, Tensor]:
    """Take ``(x, y)`` apart."""
    if isinstance(pair, (tuple, list)) and len(pair) == 2:
        x, y = pair
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x, y
    raise ShapeError(_not_a_pair(where, side, pair))


def _not_a_pair(where: str, side: str, pair: Any) -> str:
    """Say what came instead of ``(x, y)``."""
    wanted = f"{where}: {side} must be a pair (x, y) of dense tensors"
    if isinstance(pair, Tensor):
        return f"{wanted}, got one tensor {list(pair.shape)}; pass both x and y."
    if not isinstance(pair, Sequence) or isinstance(pair, str):
        return f"{wanted}, got {type(pair).__name__}."
    if pair and all(isinstance(task, (tuple, list)) and len(task) == 2 for task in pair):
        return (
            f"{wanted}, got a list of {len(pair)} tasks; give all tasks the same number of rows "
            "and join them with torch.stack."
        )
    if len(pair) == 2 and all(type(part).__module__ == "numpy" for part in pair):
        return f"{wanted}, got numpy arrays; call torch.from_numpy."
    came = ", ".join(type(part).__name__ for part in pair)
    return f"{wanted}, got ({came}); make each of x and y one tensor, with torch.stack."


def _check_x(where: str, side: str, x: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Whatever holds for the x of one set alone."""
    shape = x.shape
    if len(shape) < 2 or not shape[0] or not shape[1]:
        _bad_rows(where, side, x)
    if x.dtype is not dtype:
        advice = "" if x.is_floating_point() or x.is_complex() else _INDICES
        raise DtypeError(
            f"{where}: {side} x must be {dtype} like the model's parameters, got {x.dtype}; "
            f"call x.{_CASTS[dtype]}(){advice}."
        )
    if x.device != device or x.requires_grad:
        _bad_storage(where, side, "x", x, device)


def _bad_rows(where: str, side: str, x: Tensor) -> NoReturn:
    """Too few dimensions, no tasks or no rows."""
    rows = side[0].upper()
    shape = list(x.shape)
    if x.dim() < 2:
        raise ShapeError(
            f"{where}: {side} x must be [T, {rows}, ...], got {shape}; "
            "add the missing dimension with x.unsqueeze."
        )
    if not shape[0]:
        raise ShapeError(f"{where}: {side} x must hold at least one task, got {shape}.")
    raise ShapeError(
        f"{where}: {side} x must hold at least one row per task, got {rows}=0 in {shape}."
    )


def _bad_storage(
    where: str, side: str, letter: str, tensor: Tensor, device: torch.device
) -> NoReturn:
    """Another device, or a graph."""
    if tensor.device != device:
        raise DeviceError(
            f"{where}: {side} {letter} must be on {device} like the model's parameters, "
            f'got {tensor.device}; call .to("{device}").'
        )
    raise SettingError(
        f"{where}: data must not require grad, got {side} {letter} with requires_grad=True; "
        "call .detach()."
    )


def _check_y(
    where: str,
    side: str,
    y: Tensor,
    x_shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    loss: Loss,
) -> None:
    """Whatever holds for the y of one set, before the model's output is known."""
    shape = y.shape
    if len(shape) < 2 or shape[0] != x_shape[0] or shape[1] != x_shape[1]:
        tasks, rows = x_shape[:2]
        raise ShapeError(
            f"{where}: {side} y must be {_dims(f'T={tasks}', f'{side[0].upper()}={rows}', '...')} "
            f"like {side} x, got {list(shape)}."
        )
    if loss.op is not None or loss.classifies:
        _check_y_of_loss(where, side, y, dtype, loss)
    if y.device != device or y.requires_grad:
        _bad_storage(where, side, "y", y, device)


def _check_y_of_loss(where: str, side: str, y: Tensor, dtype: torch.dtype, loss: Loss) -> None:
    """Dtype and rank of y, which a known loss decides."""
    if not loss.classifies:
        if y.dtype is not dtype:
            raise DtypeError(
                f"{where}: {side} y must be {dtype} like x for {loss.name}, got {y.dtype}; "
                f"call y.{_CASTS[dtype]}()."
            )
        return
    if y.dtype is torch.int64:
        if y.dim() != 2:
            raise ShapeError(
                f"{where}: {side} y must be [T, {side[0].upper()}] class indices, "
                f"got {list(y.shape)}."
            )
    elif not y.is_floating_point():
        raise DtypeError(
            f"{where}: {side} y must be torch.int64 class indices for {loss.name}, "
            f"got {y.dtype}; call y.long()."
        )
    elif y.dim() == 2:
        raise DtypeError(
            f"{where}: {side} y must be torch.int64 class indices [T, {side[0].upper()}] for "
            f"{loss.name}, got {y.dtype}; call y.long()."
        )
    elif y.dtype is not dtype:
        raise DtypeError(
            f"{where}: {side} y must be {dtype} class probabilities like x, got {y.dtype}; "
            f"call y.{_CASTS[dtype]}()."
        )


def check_output(
    where: str, tasks: Tasks, loss: Loss, rows: int, output_shape: tuple[int, ...]
) -> None:
    """Check what is only known once the model has run: its output against rows and targets.

    Args:
        where: The call that error texts begin with.
        tasks: The data.
        loss: The loss; a callable judges its targets itself.
        rows: How many rows the model was given.
        output_shape: Shape of what it returned for them.

    Raises:
        ShapeError: The model does not keep its rows, or the targets do not fit its output.
        SettingError: A class index out of range.
    """
    if not output_shape or output_shape[0] != rows:
        raise ShapeError(
            f"{where}: the model must return one output per row, got {list(output_shape)} "
            f"for {rows} rows."
        )
    if loss.op is None and not loss.classifies:
        return
    on_cpu = tasks.support_x.device.type == "cpu"  # elsewhere it does not look at class indices
    if not (on_cpu and binding.targets_fit(output_shape[1:], tasks, loss.classifies)):
        check_targets(where, tasks, output_shape[1:])
        if tasks.support_y.dtype is torch.int64:
            check_classes(where, tasks, output_shape[1])


def check_targets(where: str, tasks: Tasks, output_shape: tuple[int, ...]) -> None:
    """Check y against the shape of one row of the model's output.

    Class indices need outputs ``[C]``; other targets have exactly the output's shape.

    Raises:
        ShapeError: It is not so.
    """
    for side, y in (("support", tasks.support_y), ("query", tasks.query_y)):
        if y.dtype is torch.int64:
            if len(output_shape) != 1 or not output_shape[0]:
                raise ShapeError(
                    f"{where}: the model must return one logit per class, {_dims('rows', 'C')}, "
                    f"for class indices, got {_dims('rows', *output_shape)}."
                )
        elif y.shape[2:] != output_shape:
            hint = "; call y.unsqueeze(-1)." if output_shape == (*y.shape[2:], 1) else "."
            expected = _dims(f"T={y.shape[0]}", f"{side[0].upper()}={y.shape[1]}", *output_shape)
            raise ShapeError(
                f"{where}: {side} y must be {expected} like the model's output, "
                f"got {list(y.shape)}{hint}"
            )


def check_classes(where: str, tasks: Tasks, classes: int) -> None:
    """Check that class indices lie in ``0..classes-1``. Reads the data.

    Raises:
        SettingError: One does not; the text names it, its place and the number of classes.
    """
    for side, y in (("support", tasks.support_y), ("query", tasks.query_y)):
        y = y.clone()  # another thread may be writing it
        low, high = torch.aminmax(y)
        if int(low) < 0 or int(high) >= classes:
            task, row = torch.nonzero((y < 0) | (y >= classes))[0].tolist()
            raise SettingError(
                f"{where}: {side} y must hold class indices 0 to {classes - 1}, as the model has "
                f"{classes} outputs, got {int(y[task, row])} at [{task}, {row}]."
            )


def _dims(*sizes: object) -> str:
    """Sizes and letters as one shape, ``[T=4, Q, 1, 28, 28]``."""
    return f"[{', '.join(str(size) for size in sizes)}]"
