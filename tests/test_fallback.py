"""Many tasks at once equal one after another, for whatever model, or the loop runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from door import refused
from tolerances import assert_close
from torch import Tensor, nn

from fastmaml import reference
from fastmaml.definition import fallback
from fastmaml.errors import SettingError
from fastmaml.reference import Outcome
from fastmaml.settings import Settings, check_options
from fastmaml.tasks import Tasks, validate

T, S, Q, FEATURES = 4, 6, 5, 12


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever agrees counts as faster, once timed."""
    monkeypatch.setattr(fallback, "_GAIN", 0.0)
    monkeypatch.setattr(fallback, "_FEWEST", T)
    monkeypatch.setattr(fallback, "_TRIALS", 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 2, 6)
        result: Tensor = self.attn(x, x, x)[0].flatten(1)
        return result


class Direct(nn.Module):
    """Calls a norm where the formulas cannot stand in for it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, [x.shape[1]])


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else 2 * x


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.shape)
        y[:] = x
        return y


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def mlp(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), *middle, nn.Linear(8, 3))


def conv(*middle: nn.Module) -> nn.Module:
    first = nn.Conv2d(3, 8, (3, 1), padding=(1, 0))
    return nn.Sequential(nn.Unflatten(1, (3, 4, 1)), first, *middle, Mean(), nn.Linear(8, 3))


BATCHED: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: mlp(nn.Softmax(-1)),
    "prelu": lambda: mlp(nn.PReLU(), nn.Mish()),
    "in place": lambda: mlp(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.SELU(inplace=True)),
    "batch norm": lambda: mlp(nn.BatchNorm1d(8), nn.Tanh()),
    "batch norm, bare": lambda: mlp(nn.BatchNorm1d(8, affine=False, track_running_stats=False)),
    "batch norm, eval": lambda: mlp(nn.BatchNorm1d(8), nn.ReLU()).eval(),
    "batch norm 2d": lambda: conv(nn.BatchNorm2d(8), nn.ELU()),
    "layer norm": lambda: mlp(nn.LayerNorm(8), nn.GELU()),
    "layer norm, bare": lambda: mlp(nn.LayerNorm(8, elementwise_affine=False)),
    "group norm": lambda: conv(nn.GroupNorm(2, 8), nn.Softplus()),
    "instance norm": lambda: conv(nn.InstanceNorm2d(8, affine=True), nn.Tanh()),
    "instance norm, eval": lambda: conv(nn.InstanceNorm2d(8, track_running_stats=True)).eval(),
    "max pool": lambda: conv(nn.MaxPool2d((2, 1)), nn.Sigmoid()),
    "attention": lambda: nn.Sequential(Attention(), nn.Linear(FEATURES, 3)),
}
LOOPED: dict[str, Callable[[], nn.Module]] = {
    "data-dependent": lambda: mlp(Branches()),
    "writes": lambda: mlp(Writes()),
}


def problem(tasks: int = T, **changed: Any) -> tuple[Tasks, Settings]:
    given: dict[str, Any] = {
        "loss": "cross_entropy",
        "inner_lr": torch.tensor(0.4, requires_grad=True),
        "inner_steps": 2,
        "first_order": False,
    }
    settings = check_options("meta_step", given | changed)  # type: ignore[arg-type]
    support, query = (
        (torch.randn(tasks, rows, FEATURES), torch.randint(3, (tasks, rows))) for rows in (S, Q)
    )
    dtype, device = torch.float64, torch.device("cpu")
    return (
        validate("meta_step", support, query, dtype=dtype, device=device, loss=settings.loss),
        settings,
    )


def verdicts(model: nn.Module) -> list[bool]:
    """What is remembered: whether later calls of each kind use vmap."""
    return [chunk > 1 for chunk in fallback._chosen.get(model, {}).values()]


def compare(model: nn.Module, tasks: Tasks, settings: Settings, *, want_grad: bool = True) -> None:
    """Two calls in a row give what the loop gives."""
    expected = reference.compute(model, tasks, settings, want_grad=want_grad)
    for _ in range(2):
        same(fallback.compute(model, tasks, settings, want_grad=want_grad), expected)


def same(actual: Outcome, expected: Outcome) -> None:
    assert_close(actual.task_losses, expected.task_losses, "meta_f64")
    assert_close(actual.logits, expected.logits, "meta_f64")
    assert actual.grads.keys() == expected.grads.keys()
    if expected.grads:
        flat = [
            torch.cat([outcome.grads[name].flatten() for name in sorted(expected.grads)])
            for outcome in (actual, expected)
        ]
        assert_close(flat[0], flat[1], "meta_f64")
    if expected.rate_grad is None:
        assert actual.rate_grad is None
    else:
        assert actual.rate_grad is not None
        assert_close(actual.rate_grad, expected.rate_grad, "meta_f64")


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", BATCHED)
def test_batched_models(name: str, first_order: bool) -> None:
    model = BATCHED[name]()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    compare(model, *problem(first_order=first_order))
    assert verdicts(model) == [True]
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", LOOPED)
def test_looped_models(name: str) -> None:
    model = LOOPED[name]()
    compare(model, *problem())
    assert verdicts(model) == [False]


def test_silently_wrong_derivatives_are_found_out() -> None:
    """Whatever torch makes of this one, the numbers are the loop's."""
    compare(mlp(Direct()), *problem())


def test_random_models_run_the_loop() -> None:
    model = mlp(nn.Dropout(0.5))
    tasks, settings = problem()
    torch.manual_seed(1)
    fallback.compute(model, tasks, settings, want_grad=True)
    assert verdicts(model) == [False]
    torch.manual_seed(1)
    first = reference.compute(model, tasks, settings, want_grad=True)
    torch.manual_seed(1)
    same(fallback.compute(model, tasks, settings, want_grad=True), first)
    compare(model.eval(), tasks, settings)
    assert verdicts(model) == [False, True]


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("rate", [0.3, torch.tensor(0.3)])
def test_settings(steps: int, rate: Any) -> None:
    model = mlp(nn.LayerNorm(8), nn.Softmax(-1))
    compare(model, *problem(inner_steps=steps, inner_lr=rate))
    compare(model, *problem(inner_steps=steps), want_grad=False)
    assert verdicts(model) == [True, True]


def test_more_tasks_than_a_chunk() -> None:
    compare(mlp(nn.Softmax(-1)), *problem(fallback._CHUNK + 3))


@pytest.mark.parametrize("tasks", [1, 3])
def test_few_tasks_are_never_batched(tasks: int) -> None:
    model = mlp(nn.Softmax(-1))
    compare(model, *problem(tasks))
    assert verdicts(model) == []


def test_frozen_and_unused_parameters() -> None:
    model = mlp(nn.Softmax(-1))
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    compare(model, *problem())
    model.get_parameter("0.weight").requires_grad_(False)
    compare(model, *problem())
    assert verdicts(model) == [True, True]


def test_callable_losses_are_told_apart_by_their_code() -> None:
    model = mlp(nn.Softmax(-1))
    for _ in range(3):
        compare(model, *problem(loss=lambda logits, y: F.cross_entropy(2 * logits, y)))
    assert verdicts(model) == [True]
    compare(model, *problem(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))))
    assert verdicts(model) == [True, True]


def test_kinds_are_forgotten_before_they_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "_KINDS", 2)
    model = mlp(nn.Softmax(-1))
    for loss in ("cross_entropy", nn.CrossEntropyLoss(label_smoothing=0.1), F.cross_entropy):
        for first_order in (False, True):
            compare(model, *problem(loss=loss, first_order=first_order))
    assert 1 <= len(verdicts(model)) <= 2


def test_data_that_are_not_finite_prove_nothing() -> None:
    model = mlp(nn.Softmax(-1))
    tasks, settings = problem()
    tasks.support_x[0, 0, 0] = float("nan")
    outcome = fallback.compute(model, tasks, settings, want_grad=True)
    assert outcome.task_losses.isfinite().tolist() == [False, True, True, True]
    assert verdicts(model) == []


def test_errors_pass_through_the_batched_run() -> None:
    model = mlp(nn.Softmax(-1))
    tasks, settings = problem()
    compare(model, tasks, settings)
    tasks.query_y[1, 2] = 3
    refused(
        SettingError,
        "meta_step: query y must hold class indices 0 to 2, as the model has 3 outputs, got 3 at "
        "[1, 2].",
        lambda: fallback.compute(model, tasks, settings, want_grad=True),
    )
    assert verdicts(model) == [True]


def test_a_model_that_stops_allowing_it() -> None:
    class Fickle(nn.Module):
        strict = False

        def forward(self, x: Tensor) -> Tensor:
            return Branches()(x) if Fickle.strict else x  # type: ignore[no-any-return]

    model = mlp(Fickle())
    compare(model, *problem())
    assert verdicts(model) == [True]
    Fickle.strict = True
    compare(model, *problem())
    assert verdicts(model) == [False]
