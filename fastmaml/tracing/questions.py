"""What a forward may ask a tensor without asking for its numbers, and how it is answered.

The tensors of a trace have no memory, but are those of the model's device in every answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["UNANSWERED", "answer", "tells_rows"]

UNANSWERED = object()

_ATTRIBUTES = frozenset(
    (
        *("shape", "ndim", "dtype", "layout", "requires_grad", "is_leaf", "itemsize", "nbytes"),
        *("is_sparse", "is_sparse_csr", "is_quantized", "is_nested", "is_mkldnn"),
    )
)
_DEVICES = {"is_cpu": "cpu", "is_cuda": "cuda", "is_mps": "mps", "is_xpu": "xpu", "is_meta": "meta"}
_METHODS = (
    *("size", "dim", "ndimension", "numel", "nelement", "__len__", "element_size", "stride"),
    *("is_floating_point", "is_complex", "is_signed", "is_contiguous", "is_inference"),
)
_FUNCTIONS = ("numel", "is_floating_point", "is_complex")
_CALLED: frozenset[Any] = frozenset(
    (
        *(getattr(Tensor, name) for name in _METHODS),
        *(getattr(torch, name) for name in _FUNCTIONS),
        torch._C._set_grad_enabled,
    )
)


_SIZES = frozenset(
    (Tensor.size, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.stride, torch.numel)
)


def tells_rows(function: Callable[..., Any]) -> bool:
    """Whether an answer depends on the number of rows."""
    if function in _SIZES:
        return True
    asked = getattr(getattr(function, "__self__", None), "__name__", "")
    return getattr(function, "__name__", "") == "__get__" and asked in ("shape", "nbytes")


def answer(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], on: torch.device
) -> Any:
    """The answer to a question, or `UNANSWERED` where the call is none."""
    if function in _CALLED:
        return function(*args, **kwargs)
    if function is Tensor.get_device:
        return -1 if on.index is None else on.index
    if getattr(function, "__name__", "") != "__get__":
        return UNANSWERED
    name = getattr(function.__self__, "__name__", "")  # type: ignore[attr-defined]
    if name in _ATTRIBUTES:
        return function(*args, **kwargs)
    if name == "device":
        return on
    return _DEVICES[name] == on.type if name in _DEVICES else UNANSWERED
