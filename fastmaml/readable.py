"""Whether a tensor's numbers can be read: by its address, as the engine does, or by torch at all.

Lazy, nested, sparse and quantized tensors, wrappers, and what a transform of `torch.func` stands
for, have no numbers in the order of their shape; and a storage that was freed or made smaller
leaves a tensor whose numbers are gone, which torch itself would read without a word.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .engine import binding
from .errors import SettingError

__all__ = ["Obstacle", "check_place", "check_readable", "check_tensors", "obstacle", "readable"]


_TRANSFORMED = [
    getattr(torch._C.DispatchKey, name)
    for name in ("FuncTorchBatched", "FuncTorchGradWrapper", "Functionalize")
]


_COPY = "call .clone()"


class Obstacle(NamedTuple):
    """Why a tensor's numbers cannot be read."""

    wanted: str
    came: str
    advice: str

    def __str__(self) -> str:
        """What must hold, what came, what to do."""
        return f"{self.wanted}, got {self.came}; {self.advice}"


def readable(tensor: Tensor) -> bool:
    """Whether a tensor is dense and has memory for all its numbers, or is on the meta device."""
    return binding.readable(tensor) or obstacle(tensor) is None


def check_readable(where: str, what: str, tensor: Tensor, advice: str = "") -> None:
    """Refuse a tensor whose numbers cannot be read.

    Args:
        where: The call that error texts begin with.
        what: What the tensor is there.
        tensor: Any object of that class or of a subclass.
        advice: What to do, where that does not depend on why.

    Raises:
        SettingError: They cannot.
    """
    if not binding.readable(tensor):
        found = obstacle(tensor)
        if found is not None:
            found = found._replace(advice=advice or found.advice)
            raise SettingError(f"{where}: {what} must be {found}.")


def obstacle(tensor: Tensor) -> Obstacle | None:
    """Why a tensor's numbers cannot be read, or None.

    >>> str(obstacle(torch.eye(2).to_sparse()))
    'a dense tensor, got torch.sparse_coo; call .to_dense()'
    """
    kind = type(tensor).__name__
    dense = "a dense tensor"
    if nn.parameter.is_lazy(tensor):
        return Obstacle(
            "a tensor with a shape", f"an {kind}", "run the model once on an example first"
        )
    if tensor.is_nested:
        return Obstacle(
            dense, "a nested one", "give all tasks the same number of rows, or pad them"
        )
    if tensor.layout is not torch.strided:
        return Obstacle(dense, str(tensor.layout), "call .to_dense()")
    if tensor.is_quantized:
        return Obstacle(dense, f"{tensor.dtype}", "call .dequantize()")
    # Torch's own questions about these follow pointers, some of them into nothing.
    keys = torch._C._dispatch_keys(tensor)
    if any(map(keys.has, _TRANSFORMED)):
        return Obstacle(
            "an ordinary tensor", "one that a transform of torch.func made", "call outside of it"
        )
    own = "a tensor with memory of its own"
    if kind == "DTensor":
        return Obstacle(
            own,
            "a DTensor, which is spread over processes",
            "use the model as it was before it was distributed; DistributedDataParallel is taken",
        )
    if _is_wrapper(tensor):
        return Obstacle(own, f"a {kind}", "make a plain torch.Tensor of it")
    if keys.has(torch._C.DispatchKey.ZeroTensor):
        return Obstacle(own, "zeros without memory", _COPY)
    if (
        tensor.numel()
        and tensor.device.type != "meta"
        and tensor.data_ptr() % tensor.element_size()
    ):
        return Obstacle("a tensor at a multiple of its element's size", "another address", _COPY)
    if tensor.device.type != "meta" and not _is_within_storage(tensor):
        size = tensor.untyped_storage().nbytes()
        return Obstacle(
            f"{own} for all of {list(tensor.shape)}",
            f"a storage of {size} bytes",
            "it was freed or made smaller after the tensor was made: make the tensor again",
        )
    return None


def _is_within_storage(tensor: Tensor) -> bool:
    if not tensor.numel():
        return True
    reach = zip(tensor.shape, tensor.stride(), strict=True)
    end = tensor.storage_offset() + 1 + sum((size - 1) * step for size, step in reach)
    storage = tensor.untyped_storage()
    try:
        return storage.nbytes() >= end * tensor.element_size() and storage.data_ptr() != 0
    except RuntimeError:  # "an invalid python storage"
        return False


def check_tensors(
    where: str, model: nn.Module, parameters: list[tuple[str, Tensor]] | None = None
) -> None:
    """Refuse a model with tensors that nobody can read, or that cannot be adapted.

    Frozen parameters and buffers may be sparse, quantized or of any class: what they are for is
    the forward's business.

    Args:
        where: The call that error texts begin with.
        model: The model.
        parameters: All that it has, by name, where the caller knows them.

    Raises:
        SettingError: The text names the tensor.
    """
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise SettingError(
                f"{where}: the model must hold its parameters, got FullyShardedDataParallel, which "
                "spreads them over processes; use the model as it was before it was distributed; "
                "DistributedDataParallel is taken."
            )
    if parameters is None:
        parameters = list(model.named_parameters())
    buffers = list(model.named_buffers())
    if binding.readable(*(tensor for _, tensor in (*parameters, *buffers))):
        return
    for kind, tensors in (("parameter", parameters), ("buffer", buffers)):
        for name, tensor in tensors:
            if not _is_models_business(tensor):
                check_readable(where, f"{kind} `{name}`", tensor)


def _is_models_business(tensor: Tensor) -> bool:
    if nn.parameter.is_lazy(tensor) or tensor.requires_grad:
        return False
    dense = tensor.layout is torch.strided and not tensor.is_nested
    return _is_wrapper(tensor) or not dense or tensor.is_quantized


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor is of a subclass that does not hold its numbers itself."""
    return getattr(type(tensor), "__torch_dispatch__", None) is not Tensor.__torch_dispatch__


def check_place(where: str) -> None:
    """Refuse a call where torch is told to make something else of every tensor.

    Raises:
        SettingError: Within a transform of ``torch.func``, or a mode such as ``FakeTensorMode``.
    """
    if torch._C._are_functorch_transforms_active():
        raise SettingError(
            f"{where}: the call must be outside of transforms of torch.func, got one within vmap, "
            "grad or their like; it takes all tasks at once, and meta_loss can be differentiated."
        )
    if torch._C._len_torch_dispatch_stack():
        probe: Any = torch.empty(1, device="cpu")
        if not readable(probe):
            raise SettingError(
                f"{where}: the call must be where torch makes tensors with memory, got one within "
                f"a mode that makes a {type(probe).__name__}; leave the mode."
            )
