"""A module as a function of its parameters, for everything that runs in PyTorch.

The forward runs on a copy of the module (`fastmaml.definition.copies`), whose buffers are as the
call found them in each pass, and on copies of the data: batch norm in training mode uses the
statistics of its own rows and updates nothing, and in-place layers leave the caller's data alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmaml.engine import binding
from fastmaml.errors import DeviceError, DtypeError, SettingError, ShapeError
from fastmaml.losses import Loss
from fastmaml.modes import Mode, all_at_once, autograd_mode, grad_mode, within
from fastmaml.readable import check_readable, check_tensors
from fastmaml.statistics import warn_of_initial_statistics
from fastmaml.tasks import Tasks, validate_inputs

from .copies import ModelCopy
from .graphs import attach, reaches
from .returned import check_logits, check_loss, check_tensor

__all__ = [
    "Function",
    "accumulate",
    "is_autocast",
    "is_index",
    "leaf",
    "model_kind",
    "predictor",
    "trainable",
]


class _Forward(Mode):
    """Sees the torch calls of a forward, and makes those right whose second derivatives are not.

    Of norms with a bias and no weight torch 2.13 has none, or a wrong one.

    Attributes:
        runs_again: Whether hooks of the forward's own keep what backward needs, as checkpointing
            does: they run its code again in backward.
        mends: Whether there was anything to make right.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outer, self.runs_again, self.mends = _top_hooks(), False, False

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look, and call."""
        self.runs_again = self.runs_again or _top_hooks() != self._outer
        if func in _NORMS:
            bound = _NORMS[func].bind(*args, **kwargs).arguments
            bias = bound.get("bias")
            if bias is not None and bound.get("weight") is None:
                self.mends = True
                y = func(**{**bound, "bias": None})
                channels = 1 if func is not F.layer_norm else y.dim() - bias.dim()
                shape = [1] * channels + list(bias.shape)
                return y + bias.reshape(shape + [1] * (y.dim() - len(shape)))
        return func(*args, **kwargs)


_NORMS = {
    norm: inspect.signature(norm)
    for norm in (F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm)
}


def _top_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


class Function:
    """The model as a function of its trainable parameters, and the loss of what it returns."""

    def __init__(
        self, model: nn.Module, own: dict[str, Tensor], tasks: Tasks, loss: Loss, where: str
    ) -> None:
        """Keep the parts; ``own`` are the `trainable` ones, for the check of the first output."""
        self._model, self._own, self._tasks, self._loss = model, own, tasks, loss
        self._where = where
        self._copy = ModelCopy(model)
        # Whether there may be leaves that are no parameters of the model: the loss's, say.
        self.has_others = loss.op is None or self._copy.has_leaves
        self._first, self._runs_again, self._mends = True, False, False
        self._rows: set[int] = set()  # for which the output was checked

    def __call__(self, phi: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The model's output on one task's rows."""
        if self._first:
            return self._check(phi, x)
        # What runs again in backward must find the tensors of its own pass.
        model_copy = ModelCopy(self._model) if self._runs_again else self._copy
        logits: Tensor = within(_Forward() if self._mends else None, model_copy.put(phi), x.clone())
        if x.shape[0] not in self._rows:
            self._check_rows(x, logits)
        return logits

    def _check_rows(self, x: Tensor, logits: Any) -> None:
        """The first output for as many rows."""
        check_logits(self._where, self._tasks, self._loss, x.shape[0], logits)
        self._rows.add(x.shape[0])

    def _check(self, phi: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The first run, after which is known what the others need."""
        seen = _Forward()
        logits: Tensor = within(seen, self._copy.put(phi), x.clone())
        self._check_rows(x, logits)
        own = self._own
        # Graphs of `meta_loss` lead to the model's parameters; torch.func's are hidden.
        hidden = torch._C._are_functorch_transforms_active()
        if logits.requires_grad and not hidden and not any(phi[name] is own[name] for name in own):
            self._check_graph(logits)
        self._first, self._runs_again, self._mends = False, seen.runs_again, seen.mends
        return logits

    def _check_graph(self, logits: Tensor) -> None:
        """Refuse a forward that gets at the model's own parameters: they would not be adapted."""
        own = self._own
        # What the graph does not hold has no gradient by it, and walking it is the faster question.
        if not reaches(logits, own.values()):
            return
        reached = torch.autograd.grad(
            logits.sum(), list(own.values()), retain_graph=True, allow_unused=True
        )
        for name, grad in zip(own, reached, strict=True):
            if grad is not None:
                raise SettingError(
                    f"{self._where}: the model's forward must find its parameters in its modules, "
                    f"in containers, methods or closures, got `{name}` from elsewhere; use "
                    "the module's attribute."
                )

    def loss(self, phi: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of one task, and the output that it judges."""
        logits = self(phi, x)
        value = self._loss.function(logits, y.clone())
        check_loss(self._where, self._tasks, value)
        return value, logits

    def release(self) -> None:
        """Keep no parameters: those of the last pass have been derived by."""
        self._copy.release()


def predictor(
    model: nn.Module, tasks: Tasks, where: str = "predict"
) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """What `AdaptedTasks` predicts with: the model, one task after another."""

    def predict(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        validate_inputs(where, x, like=tasks)
        try:
            with autograd_mode(torch.is_inference_mode_enabled()):
                torch._C._set_grad_enabled(False)
                return _outputs(model, parameters, x)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
        with grad_mode():  # it differentiates within its forward
            return _outputs(model, parameters, x)

    return predict


def _outputs(model: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    model_copy = ModelCopy(model)
    outputs = []
    for t in range(x.shape[0]):
        module = model_copy.put({name: p[t] for name, p in parameters.items()})
        try:
            output = module(x[t].clone())
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ShapeError(
                f"predict: query x must hold at least 2 rows per task for the statistics of batch "
                f"norm, got {list(x.shape)}; or call model.eval()."
            ) from error
        check_tensor("predict", output, x.device)
        outputs.append(output.detach())
    return torch.stack(outputs)


def _parameters(where: str, model: nn.Module) -> list[tuple[str, Tensor]]:
    """All of a model's, by name, a shared one once; SettingError where it is no module."""
    if not isinstance(model, nn.Module):
        raise SettingError(f"{where}: model must be a torch.nn.Module, got {type(model).__name__}.")
    return list(model.named_parameters())


def trainable(
    where: str, model: nn.Module, parameters: list[tuple[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """The parameters that are adapted and trained, by name, of all or of those that are given.

    Raises:
        SettingError: There is none, or the model is no module.
    """
    parameters = _parameters(where, model) if parameters is None else parameters
    found = {name: parameter for name, parameter in parameters if parameter.requires_grad}
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
    parameters = _parameters(where, model)
    first, one = next(iter(trainable(where, model, parameters).items()))
    check_tensors(where, model, parameters)
    warn_of_initial_statistics(where, model)
    if one.is_meta:
        raise DeviceError(
            f"{where}: the model must have data, got parameters on {one.device}; "
            'call model.to_empty(device="cpu") and initialise it.'
        )
    for name, parameter in parameters:
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


def is_autocast(device: torch.device) -> bool:
    """Whether torch casts what it computes on the device, in this thread."""
    kind = device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


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
        _pass_on(where, inner_lr, rate_grad)
        held, added = _held(where, parameters, grads)  # it may have been computed from parameters
    hooked = [name for name in grads if _has_hooks(parameters[name])]
    if hooked:
        # They may change gradients, or step an optimizer: autograd knows when they run.
        leaves = [(parameters[name], grad) for name, grad in grads.items()]
        with grad_mode():
            attach(torch.zeros((), device="cpu"), leaves).backward()  # type: ignore[no-untyped-call]
        return
    negated = any(map(Tensor.is_neg, held))
    if len(held) == len(grads) > 0 and not negated:  # as nearly always
        torch._foreach_add_(held, added)
        return
    actions: list[partial[Any]] = []
    if negated:  # views whose memory holds the other sign: one by one
        actions = [partial(old.add_, grad) for old, grad in zip(held, added, strict=True)]
    elif held:
        actions = [partial(torch._foreach_add_, held, added)]
    for name, grad in grads.items():
        if parameters[name].grad is None:
            actions.append(partial(setattr, parameters[name], "grad", grad))
    all_at_once(actions)


def _pass_on(where: str, inner_lr: Tensor, grad: Tensor) -> None:
    """Send a gradient back through whatever computed the step size."""
    try:
        torch.autograd.backward(inner_lr, grad)
    except RuntimeError as error:
        if "a second time" not in str(error):
            raise
        raise SettingError(
            f"{where}: inner_lr must have a graph that no call has gone back through, got one that "
            "was freed; compute it anew for each call."
        ) from error


_LET_GO = "set it to None, as optimizer.zero_grad() does"


def _has_hooks(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _held(
    where: str, parameters: Mapping[str, Tensor], grads: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Every ``.grad`` that is there already, and what is to be added to it. Changes nothing."""
    names, held, added = [], [], []
    for name, grad in grads.items():
        old = parameters[name].grad
        if old is not None:
            names.append(name)
            held.append(old)
            added.append(grad)
    if held and not _fit(held, added):
        for name, old, grad in zip(names, held, added, strict=True):
            check_readable(where, f".grad of `{name}`", old, _LET_GO)
            _check_held(where, name, old, grad)
    # A .grad from create_graph carries a graph, in which this sum has no part.
    return [old.detach() if old.requires_grad else old for old in held], added


def _fit(held: list[Tensor], added: list[Tensor]) -> bool:
    """Whether all may be added to, as nearly always; all gradients share dtype and device."""
    if any(map(Tensor.is_inference, held)):
        return False
    return binding.fitting(held, [grad.shape for grad in added], added[0]) is not None


def _check_held(where: str, name: str, old: Tensor, grad: Tensor) -> None:
    """Refuse a ``.grad`` that the gradient cannot be added to."""
    text = f"{where}: .grad of `{name}` must be "
    advice = f"; {_LET_GO}."
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


def leaf(tensor: Tensor, requires_grad: bool) -> Tensor:
    """A copy at which a graph begins."""
    return tensor.detach().clone().requires_grad_(requires_grad)
