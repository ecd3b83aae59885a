"""A module as a function of its parameters, for everything that runs in PyTorch.

Buffers and inputs are copied for each forward pass, so that batch norm in training mode uses the
statistics of its own rows and updates nothing, and in-place layers leave the caller's data alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import DeviceError, DtypeError, SettingError, ShapeError
from .losses import Loss
from .tasks import Tasks, check_output, validate_inputs

__all__ = [
    "Function",
    "accumulate",
    "attach",
    "call_model",
    "grad_mode",
    "is_index",
    "leaf",
    "model_kind",
    "predictor",
    "trainable",
]


def call_model(model: nn.Module, phi: Mapping[str, Tensor], x: Tensor) -> Any:
    """Run the model with other parameters; its own buffers and ``x`` stay as they are."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return functional_call(model, {**phi, **buffers}, (x.clone(),))


class Function:
    """The model as a function of its trainable parameters, and the loss of what it returns."""

    def __init__(self, model: nn.Module, tasks: Tasks, loss: Loss, where: str) -> None:
        """Keep the parts; ``tasks`` and ``where`` are for the check of the first output."""
        self._model, self._tasks, self._loss, self._where = model, tasks, loss, where
        self._checked = False

    def __call__(self, phi: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The model's output on one task's rows."""
        logits: Tensor = call_model(self._model, phi, x)
        if not self._checked:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
            check_output(self._where, self._tasks, self._loss, x.shape[0], shape)
            self._checked = True
        return logits

    def loss(self, phi: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of one task, and the output that it judges."""
        logits = self(phi, x)
        value = self._loss.function(logits, y.clone())
        if not isinstance(value, Tensor) or value.dim() != 0:
            came = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"{self._where}: loss must return a 0-dim tensor per task, got {came}; "
                "reduce it with .mean() or .sum()."
            )
        return value, logits


def predictor(
    model: nn.Module, tasks: Tasks, where: str = "predict"
) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """What `AdaptedTasks` predicts with: the model, one task after another."""

    def predict(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        validate_inputs(where, x, like=tasks)
        with torch.no_grad():
            outputs = [
                call_model(model, {name: p[t] for name, p in parameters.items()}, x[t])
                for t in range(tasks.tasks)
            ]
        return torch.stack(outputs)

    return predict


def trainable(where: str, model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are adapted and trained, by name; a shared one once.

    Raises:
        SettingError: There is none, or the model is no module.
    """
    if not isinstance(model, nn.Module):
        raise SettingError(f"{where}: model must be a torch.nn.Module, got {type(model).__name__}.")
    found: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise SettingError(
            f"{where}: the model must have a parameter with requires_grad=True, got none in "
            f"{type(model).__name__}; call model.requires_grad_()."
        )
    return found


def model_kind(where: str, model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device that all parameters of the model share.

    Frozen integer parameters count as buffers: they may be of any dtype.

    Raises:
        SettingError: The model has no trainable parameter.
        DtypeError: Its parameters are of several dtypes.
        DeviceError: Its parameters are on several devices.
    """
    first, one = next(iter(trainable(where, model).items()))
    if one.is_meta:
        raise DeviceError(
            f"{where}: the model must have data, got parameters on {one.device}; "
            'call model.to_empty(device="cpu") and initialise it.'
        )
    for name, parameter in model.named_parameters():
        if parameter.dtype is not one.dtype and not is_index(parameter):
            raise DtypeError(
                f"{where}: the model's parameters must be of one dtype, got {one.dtype} for "
                f"`{first}` and {parameter.dtype} for `{name}`; call model.float()."
            )
        if parameter.device != one.device:
            raise DeviceError(
                f"{where}: the model's parameters must be on one device, got {one.device} for "
                f'`{first}` and {parameter.device} for `{name}`; call model.to("{one.device}").'
            )
    return one.dtype, one.device


def is_index(tensor: Tensor) -> bool:
    """Whether a tensor holds integers or truth values, which nothing can be derived by."""
    return not tensor.is_floating_point() and not tensor.is_complex()


def accumulate(
    where: str,
    parameters: Mapping[str, Tensor],
    inner_lr: float | Tensor,
    grads: Mapping[str, Tensor],
    rate_grad: Tensor | None,
) -> None:
    """Add gradients to ``.grad`` of the parameters and of a learned ``inner_lr``, or nothing.

    What is there already is checked before anything is written. A step size that was itself
    computed passes its gradient on, as ``backward()`` does; that can fail, and comes next.

    Args:
        where: The call that error texts begin with.
        parameters: Where the gradients go, by name.
        inner_lr: The step size.
        grads: Gradients by name, each of its parameter's shape, dtype and device.
        rate_grad: That of ``inner_lr``, 0-dim, or None.

    Raises:
        SettingError: A ``.grad`` that is not dense, shares memory with itself, or was made in
            inference mode.
        ShapeError: A ``.grad`` of another shape than its parameter.
        DtypeError: A ``.grad`` of another dtype.
        DeviceError: A ``.grad`` on another device.
    """
    held, added = _held(where, parameters, grads)
    if isinstance(inner_lr, Tensor) and rate_grad is not None:
        torch.autograd.backward(inner_lr, rate_grad)
        held, added = _held(where, parameters, grads)  # it may have been computed from parameters
    if held:
        torch._foreach_add_(held, added)
    if len(held) < len(grads):
        for name, grad in grads.items():
            if parameters[name].grad is None:
                parameters[name].grad = grad


def _held(
    where: str, parameters: Mapping[str, Tensor], grads: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Every ``.grad`` that is there already, and what is to be added to it. Changes nothing."""
    held, added = [], []
    dtype = device = None
    for name, grad in grads.items():
        old = parameters[name].grad
        if old is None:
            continue
        if dtype is None:
            dtype, device = grad.dtype, grad.device  # all share them, as the parameters do
        # This runs in every call: one flag each for what nearly always holds.
        if (
            old.dtype is not dtype
            or old.layout is not torch.strided
            or old.shape != grad.shape
            or old.device != device
            or old.is_inference()
            or not old.is_contiguous()
        ):
            _check_held(where, name, old, grad)
        # A .grad from create_graph carries a graph, in which this sum has no part.
        held.append(old.detach() if old.requires_grad else old)
        added.append(grad)
    return held, added


def _check_held(where: str, name: str, old: Tensor, grad: Tensor) -> None:
    """Refuse a ``.grad`` that the gradient cannot be added to."""
    text = f"{where}: .grad of `{name}` must be "
    advice = "; set it to None, as optimizer.zero_grad() does."
    if old.layout is not torch.strided:
        raise SettingError(f"{text}dense, got {old.layout}{advice}")
    if old.dtype is not grad.dtype:
        raise DtypeError(f"{text}{grad.dtype} like the parameter, got {old.dtype}{advice}")
    if old.shape != grad.shape:
        raise ShapeError(
            f"{text}{list(grad.shape)} like the parameter, got {list(old.shape)}{advice}"
        )
    if old.device != grad.device:
        raise DeviceError(f"{text}on {grad.device} like the parameter, got {old.device}{advice}")
    if old.is_inference() and not torch.is_inference_mode_enabled():
        raise SettingError(
            f"{text}an ordinary tensor, got one that was made in inference mode{advice}"
        )
    if any(size > 1 and not stride for size, stride in zip(old.shape, old.stride(), strict=True)):
        raise SettingError(
            f"{text}a tensor that can be added to, got an expanded one whose entries share "
            f"memory{advice}"
        )


def attach(value: Tensor, leaves: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A computed value with a graph: to tensors whose gradients, beside them, are already known."""
    attached: Tensor = _Attach.apply(  # type: ignore[no-untyped-call]
        value, [grad for _, grad in leaves], *(tensor for tensor, _ in leaves)
    )
    return attached


class _Attach(torch.autograd.Function):
    """The node of such a graph."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*grads)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(upstream * grad for grad in ctx.saved_tensors))


def leaf(tensor: Tensor, requires_grad: bool) -> Tensor:
    """A copy at which a graph begins."""
    return tensor.detach().clone().requires_grad_(requires_grad)


@contextmanager
def grad_mode() -> Iterator[None]:
    """Let autograd record, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
