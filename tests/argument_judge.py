"""What a call may raise and change, and whether two of its results agree."""

from __future__ import annotations

import re
import traceback
from typing import Any

import torch
from hostile_tensors import CallersError, is_ordinary
from torch import Tensor, nn

from fastmaml import errors

__all__ = ["changed", "fault_of", "state"]

DOCUMENTED = (
    errors.BackendError,
    errors.DeviceError,
    errors.DtypeError,
    errors.SettingError,
    errors.ShapeError,
    errors.UnsupportedModelError,
)
SENTENCE = re.compile(r"[a-z_]+: [^\n]*\.")


def fault_of(error: Exception, loss: Any) -> str:
    """What is wrong with an exception of a call with this loss, or ""."""
    if isinstance(error, DOCUMENTED):
        text = str(error)
        return "" if SENTENCE.fullmatch(text) and len(text) < 600 else f"no sentence: {text!r}"
    if isinstance(error, CallersError) or _is_callers(error, loss):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f for f in reversed(frames) if "/fastmaml/" in f.filename), frames[-1])
    kind, at = type(error).__name__, f"{place.filename.rpartition('/')[2]}:{place.name}"
    return f"{kind} from {at}: {str(error)[:160]}"


def _is_callers(error: Exception, loss: Any) -> bool:
    """Whether it comes out of the model's forward or the loss, or they cannot be called so.

    So do faults of torch's own derivatives, and memory that there is not.
    """
    if re.search("can't allocate|Function .*Backward.* returned|autocast::", str(error)):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    inside = False
    for frame in frames:
        if "/fastmaml/" in frame.filename:
            inside = True
        elif inside and re.search(r"/tests/|nn/modules/module\.py$", frame.filename):
            return True
        if frame.name == "loss" and not isinstance(loss, str):
            return True
    return isinstance(error, TypeError) and "argument" in str(error)


def _tensor(t: Tensor | None) -> Any:
    """What must stay: the object, and its numbers where they can be had."""
    if t is None:
        return None
    if not is_ordinary(t):  # torch would read what is not there
        return t, None, t.requires_grad
    numbers = t.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return t, numbers.view(torch.uint8).tolist(), t.requires_grad


def state(model: Any) -> dict[str, Any]:
    """All that a call must leave alone."""
    found: dict[str, Any] = {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "generator": bytes(torch.get_rng_state().numpy()),
        "transforms": torch._C._are_functorch_transforms_active(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "threads": torch.get_num_threads(),
        "anomaly": torch.is_anomaly_enabled(),
    }
    if isinstance(model, nn.Module):
        tensors = [*model.named_parameters(), *model.named_buffers()]
        found |= {f"tensor {name}": _tensor(t) for name, t in tensors}
        found |= {f".grad {name}": _tensor(p.grad) for name, p in model.named_parameters()}
    return found


def changed(before: dict[str, Any], after: dict[str, Any], *, grads: bool = False) -> str:
    """What a call has changed that it should not have, or ""."""
    for name, was in before.items():
        if grads and name.startswith(".grad "):
            continue
        now = after.get(name)
        if isinstance(was, tuple) and isinstance(now, tuple):
            if was[0] is not now[0] or was[1:] != now[1:]:
                return f"changed {name}"
        elif was != now:
            return f"changed {name}"
    return ""
