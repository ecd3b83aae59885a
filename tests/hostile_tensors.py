"""Tensors and other objects that a caller may hand over, as they are or in place of good ones."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.masked import masked_tensor

__all__ = ["OBJECTS", "TENSORS", "CallersError", "hostile", "is_ordinary"]

DTYPES = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64, torch.complex32,
]  # fmt: skip


class CallersError(Exception):
    """What the caller's own code raises: it must arrive as it is."""


class Plain(Tensor):
    """A subclass that changes nothing."""


class Functions(Tensor):
    """A subclass that sees all torch calls."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Wrapper(Tensor):
    """A subclass without memory, around a tensor that has some."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = [a.inner if isinstance(a, Wrapper) else a for a in args]
        return func(*args, **(kwargs or {}))


class Rude:
    """Raises wherever it is asked."""

    def _raise(self, *args: Any) -> Any:
        raise CallersError("asked")

    __index__ = __float__ = __bool__ = __eq__ = __iter__ = __len__ = __call__ = _raise
    __hash__ = object.__hash__


def _escaped(transform: Callable[..., Any], t: Tensor) -> Any:
    """What a functorch transform gives its function, after it has ended."""
    seen: list[Tensor] = []

    def keep(at: Tensor) -> Tensor:
        seen.append(at)
        return at.sum()

    if transform is torch.func.grad and not t.is_floating_point():
        t = t.float()
    transform(keep)(t[None] if transform is torch.vmap else t)
    return seen[0]


def _short_storage(t: Tensor, share: int) -> Tensor:
    t = t.clone()
    t.untyped_storage().resize_(t.untyped_storage().nbytes() // share if share else 0)
    return t


def _unaligned(t: Tensor) -> Tensor:
    size = t.element_size()
    data = bytearray(size) + t.contiguous().numpy().tobytes()
    data = data[size - 1 :]
    return torch.frombuffer(data, dtype=t.dtype, offset=1, count=t.numel()).reshape(t.shape)


def _read_only(t: Tensor) -> Tensor:
    array = t.numpy().copy()
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def _inference(t: Tensor) -> Tensor:
    with torch.inference_mode():
        return t.clone()


def _negated(t: Tensor) -> Tensor:
    return torch.complex(t.double(), t.double()).conj().imag


def _strided(t: Tensor) -> Tensor:
    return t.repeat_interleave(2, -1)[..., ::2]


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    **{f"to {d}": lambda t, d=d: t.to(d) for d in DTYPES},  # type: ignore[misc]
    "expanded": lambda t: t[:1].expand_as(t),
    "all one": lambda t: t.flatten()[0].expand(t.shape),
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": _strided,
    "offset": lambda t: torch.cat([t, t])[len(t) :],
    "overlapping": lambda t: t.flatten().as_strided(t.shape, [1] * t.dim()),
    "odd strides": lambda t: t.as_strided(t.shape, [0] * t.dim()),
    "unaligned": _unaligned,
    "flipped": lambda t: t.flip(0),
    "one row": lambda t: t[:, :1],
    "one task": lambda t: t[:1],
    "no tasks": lambda t: t[:0],
    "no rows": lambda t: t[:, :0],
    "no features": lambda t: t[..., :0],
    "fewer features": lambda t: t[..., :-1],
    "more features": lambda t: torch.cat([t, t], -1),
    "scalar": lambda t: t.flatten()[0],
    "flat": lambda t: t.flatten(),
    "deeper": lambda t: t[..., None],
    "shallower": lambda t: t[0],
    "many dimensions": lambda t: t.reshape(t.shape + (1,) * 20),
    "endless": lambda t: t.flatten()[:1].expand(*t.shape[:2], 1 << 40),
    "with grad": lambda t: t.float().requires_grad_(),
    "computed": lambda t: t.float().requires_grad_() * 1,
    "parameter": lambda t: nn.Parameter(t, requires_grad=False),
    "buffer": lambda t: nn.Buffer(t),
    "plain subclass": lambda t: t.as_subclass(Plain),
    "function subclass": lambda t: t.as_subclass(Functions),
    "wrapper": Wrapper,
    "masked": lambda t: masked_tensor(t, torch.ones_like(t, dtype=torch.bool)),
    "nested": lambda t: torch.nested.nested_tensor(list(t)),
    "jagged": lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
    "sparse": lambda t: t.to_sparse(),
    "sparse rows": lambda t: t.flatten(1).to_sparse_csr(),
    "mkldnn": lambda t: t.float().to_mkldnn(),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "fake": lambda t: FakeTensorMode().from_tensor(t),
    "meta": lambda t: t.to("meta"),
    "functional": lambda t: torch._to_functional_tensor(t),
    "escaped from vmap": lambda t: _escaped(torch.vmap, t),
    "escaped from grad": lambda t: _escaped(torch.func.grad, t),
    "conjugate": lambda t: t.to(torch.complex64).conj(),
    "negated": _negated,
    "zero tensor": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "no storage": lambda t: _short_storage(t, 0),
    "half of its storage": lambda t: _short_storage(t, 2),
    "read-only": _read_only,
    "from inference": _inference,
    "nan": lambda t: t * float("nan"),
    "infinite": lambda t: t * float("inf"),
    "large": lambda t: t + 2**62,
    "negative": lambda t: -t - 1,
    "uninitialized": lambda t: nn.UninitializedParameter(),
}
OBJECTS: list[Callable[[], Any]] = [
    *(
        lambda v=v: v  # type: ignore[misc]
        for v in (
            True, False, None, 0, 1, 2, 3, -1, 10**400, 2**63, 0.1, -0.1, 1e300, 1e-320, 0.0, -0.0,
            float("nan"), float("inf"), "0.1", "auto", "fused", "reference", "mse",
            "cross_entropy", "", "\0", "\ud800", b"x", (), 1j, Decimal("0.1"), Fraction(1, 10),
            Fraction(10**400, 3), np.float32(0.1), np.float64("nan"), np.int64(1), np.bool_(True),
            np.float16(0.5), int, nn.Linear, torch.float32, ...,
        )
    ),
    list, dict, object, Rude, set,
    lambda: np.array(0.1),
    lambda: np.array([1, 2]),
    lambda: np.array(["a", None], dtype=object),
    lambda: torch.tensor(0.1),
    lambda: torch.tensor(0.1, requires_grad=True),
    lambda: torch.tensor(0.1, requires_grad=True) * 2,
    lambda: torch.tensor(0.1, dtype=torch.float64, requires_grad=True),
    lambda: torch.tensor(1),
    lambda: torch.tensor(True),
    lambda: torch.tensor([0.1]),
    lambda: torch.tensor([1, 2]),
    lambda: torch.tensor(float("nan")),
    lambda: nn.Parameter(torch.tensor(0.1)),
    lambda: (i for i in range(3)),
    lambda: lambda *a: a,
]  # fmt: skip


def is_ordinary(t: Any) -> bool:
    """Whether it is small and torch can read it: of others it reads what is not there."""
    keys = torch._C._dispatch_keys
    if not isinstance(t, Tensor) or keys(t) != keys(torch.empty(0)) or nn.parameter.is_lazy(t):
        return False
    return t.numel() < 1000 and _fits(t)


def _fits(t: Tensor) -> bool:
    """Whether the storage of a strided tensor is there, holds all of it, and begins well."""
    reach = zip(t.shape, t.stride(), strict=True)
    size = t.element_size()
    end = t.storage_offset() + 1 + sum((n - 1) * step for n, step in reach)
    storage = t.untyped_storage()
    if not t.numel():
        return True
    try:
        begin = storage.data_ptr()
    except RuntimeError:  # an invalid storage
        return False
    return begin != 0 and begin % size == 0 and storage.nbytes() >= end * size


def hostile(draw: random.Random, like: Tensor) -> Any:
    """Something in the place of a tensor: nearly always another tensor."""
    if draw.random() < 0.15:
        return draw.choice(OBJECTS)()
    made = like
    for _ in range(draw.choice((1, 1, 1, 2))):
        if not is_ordinary(made):
            break
        with contextlib.suppress(Exception):  # there is no such tensor
            made = TENSORS[draw.choice(list(TENSORS))](made)
    return made
