"""Two questions a user may ask about their own call: is it right, and what will it do?

`verify` runs the engine beside the reference on the user's model and data; `describe` prints the
plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fastmaml import reference
from fastmaml.definition.copies import ModelCopy
from fastmaml.losses import Loss, LossArgument
from fastmaml.reference import Outcome
from fastmaml.results import Backend
from fastmaml.settings import BackendChoice, Options, Settings, check_options
from fastmaml.tasks import Pair

from .prepared import Call, compute, prepare
from .wrappers import unwrap

__all__ = ["VerifyReport", "relative_error", "verify"]

# Relative errors that rounding explains. In float64 the engine must meet the reference itself; in
# float32 its distance to the float64 truth is measured against torch's own distance over the same
# data. Where a number lies within rounding of a kink (ReLU at 0) chance decides on which side each
# of them falls, and one draw says nothing: then the data's own rounding is drawn anew, and medians
# are compared.
_FLOAT64 = 1e-9
_FLOAT32_FACTOR = 2.0
_FLOAT32_FLOOR = 1e-5
_DRAWS = 9


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """How far the engine is from the reference on one call; all errors are relative.

    Attributes:
        backend: What ran as the engine.
        error_float64: Largest relative error of losses, logits and meta-gradient, both in float64.
        error: The same for the model's own dtype against the float64 reference; where that is more
            than rounding explains, the median over nine draws of the data's last digits.
        torch_error: That of the reference run in the model's own dtype, on the same data.
        ok: Whether both errors are what rounding explains.
    """

    backend: Backend
    error_float64: float
    error: float
    torch_error: float
    ok: bool

    def __str__(self) -> str:
        """The report as text."""
        verdict = "agrees with the reference" if self.ok else "DISAGREES with the reference"
        return (
            f"backend {self.backend} {verdict}\n"
            f"  float64 against float64 reference   {self.error_float64:.1e}\n"
            f"  own dtype against float64 reference {self.error:.1e}\n"
            f"  torch in own dtype, likewise        {self.torch_error:.1e}"
        )


def verify(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | Tensor = 0.4,
    inner_steps: int = 1,
    first_order: bool = False,
    backend: BackendChoice = "auto",
) -> VerifyReport:
    """Compare the engine with the float64 reference on this very call.

    Nothing is changed, ``.grad`` included; the reference works on a copy of the model. Expect it to
    take as long as a PyTorch loop over the tasks does, several times.

    Arguments and errors are those of `fastmaml.meta_step`.

    Returns:
        The `VerifyReport`; print it.

    >>> model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> data = torch.randn(4, 5, 3), torch.randint(2, (4, 5))
    >>> verify(model, data, data).ok
    True
    """
    where = "verify"
    model = unwrap(model)
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": first_order,
        "backend": backend,
    }
    sides = _Sides(where, model, check_options(where, options))
    call, truth, error, torch_error = sides.errors(support, query)
    error64 = sides.error_float64(support, query, truth)
    limit = _FLOAT64
    if call.tasks.support_x.dtype is not torch.float64:
        limit = max(_FLOAT32_FACTOR * torch_error, _FLOAT32_FLOOR)
        if error > limit:
            error, torch_error = _medians(sides, support, query, (error, torch_error))
            limit = max(_FLOAT32_FACTOR * torch_error, _FLOAT32_FLOOR)
    return VerifyReport(
        "reference" if call.fit is None else "fused",
        error64,
        error,
        torch_error,
        error64 <= _FLOAT64 and error <= limit,
    )


class _Sides:
    """The engine and the reference, in the model's own dtype and in float64."""

    def __init__(self, where: str, model: nn.Module, settings: Settings) -> None:
        self._where, self._model, self._settings = where, model, settings

    # Made on first use, when the door has seen the model.
    @cached_property
    def _double(self) -> nn.Module:
        return ModelCopy(self._model, _double_parameter).module

    @cached_property
    def _settings64(self) -> Settings:
        return self._settings._replace(loss=_double_loss(self._settings.loss))

    def errors(self, support: Pair, query: Pair) -> tuple[Call, Outcome, float, float]:
        """The call, the truth, and the engine's error and torch's in the model's own dtype."""
        call = self._prepared(self._model, self._settings, support, query)
        ours = compute(call, want_grad=True)
        own = self._reference(self._model, self._settings, call)
        call64 = self._prepared64(support, query)
        truth = self._reference(self._double, self._settings64, call64)
        return call, truth, _distance(ours, truth), _distance(own, truth)

    def error_float64(self, support: Pair, query: Pair, truth: Outcome) -> float:
        """The engine's in float64."""
        return _distance(compute(self._prepared64(support, query), want_grad=True), truth)

    def _prepared64(self, support: Pair, query: Pair) -> Call:
        pairs = _double(support), _double(query)
        return self._prepared(self._double, self._settings64, *pairs)

    def _prepared(self, model: nn.Module, settings: Settings, support: Pair, query: Pair) -> Call:
        return prepare(self._where, model, support, query, settings, "meta_step")

    def _reference(self, model: nn.Module, settings: Settings, call: Call) -> Outcome:
        return reference.compute(model, call.tasks, settings, want_grad=True, where=self._where)


def _medians(
    sides: _Sides, support: Pair, query: Pair, first: tuple[float, float]
) -> tuple[float, float]:
    """Of the engine's errors and of torch's, over draws of the data's last digits."""
    generator = torch.Generator().manual_seed(0)

    def drawn(pair: Pair) -> Pair:
        x, y = pair
        apart = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
        factor = 1 + torch.finfo(x.dtype).eps * apart
        return (x.double() * factor.to(x.device)).to(x.dtype), y

    draws = [sides.errors(drawn(support), drawn(query))[2:] for _ in range(_DRAWS - 1)]
    ours, torchs = zip(first, *draws, strict=True)
    return median(ours), median(torchs)


class _Holder(nn.Module):
    """A loss, as something that a model holds."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function


def _double_loss(loss: Loss) -> Loss:
    """The loss with the tensors that it holds, such as class weights, in float64."""
    if loss.op is not None:
        return loss
    held: Any = ModelCopy(_Holder(loss.function), _double_parameter).module
    return replace(loss, function=held.function)


def _double_parameter(tensor: Tensor) -> Tensor:
    """What stands in a model in the place of a tensor of it."""
    double = tensor.detach().clone()
    double = double.double() if double.is_floating_point() else double
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(double, requires_grad=tensor.requires_grad)
    return double.requires_grad_(tensor.requires_grad)


def _double(pair: Pair) -> tuple[Tensor, Tensor]:
    x, y = pair
    return x.double(), y.double() if y.is_floating_point() else y


def _distance(one: Outcome, truth: Outcome) -> float:
    """Largest relative error over losses, logits and the meta-gradient as one vector each."""
    pairs = [(one.task_losses, truth.task_losses), (one.logits, truth.logits)]
    if truth.grads:
        pairs.append((_flat(one, truth), _flat(truth, truth)))
    if one.rate_grad is not None and truth.rate_grad is not None:
        pairs.append((one.rate_grad, truth.rate_grad))
    return max(relative_error(a, b) for a, b in pairs)


def relative_error(a: Tensor, b: Tensor) -> float:
    """Relative error of `a`; infinite where one is finite and the other is not."""
    wide = torch.complex128 if b.is_complex() else torch.float64
    a, b = a.to(wide), b.to(wide)
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite):
        return float("inf")
    a, b = a[finite], b[finite]
    return float((a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float64).tiny))


def _flat(outcome: Outcome, like: Outcome) -> Tensor:
    return torch.cat([outcome.grads[name].double().flatten() for name in like.grads])
