"""What the reference promises beside its numbers, and the text of its errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from door import refused
from small import Q, S, T, classification, gradients, network, regression
from tolerances import assert_close
from torch import nn

import fastmaml
from fastmaml import reference
from fastmaml.errors import DeviceError, DtypeError, SettingError, ShapeError

pytestmark = pytest.mark.usefixtures("float64")


def test_gradients_are_added() -> None:
    model, (support, query) = network(), classification()
    reference.meta_step(model, support, query)
    once = gradients(model)
    reference.meta_step(model, support, query)
    for now, then in zip(gradients(model), once, strict=True):
        assert_close(now, 2 * then, "meta_f64")


def test_meta_loss_has_a_graph() -> None:
    model, (support, query) = network(), classification()
    reference.meta_step(model, support, query, inner_steps=2)
    step = gradients(model)
    model.zero_grad()
    loss = reference.meta_loss(model, support, query, inner_steps=2)
    penalty = sum(parameter.square().sum() for parameter in model.parameters())
    (3 * loss + penalty).backward()
    for parameter, grad in zip(model.parameters(), step, strict=True):
        assert parameter.grad is not None
        assert_close(
            parameter.grad.flatten(), 3 * grad + 2 * parameter.detach().flatten(), "meta_f64"
        )


def test_frozen_parameters_take_part() -> None:
    model, (support, query) = network(), classification()
    free = reference.meta_loss(model, support, query)
    model[0].weight.requires_grad_(False)
    frozen = reference.meta_step(model, support, query)
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None
    assert frozen.loss.item() != free.item()
    tasks = reference.adapt(model, support)
    assert "0.weight" not in tasks.parameters


def test_unused_parameters_get_no_gradient() -> None:
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    support, query = classification()
    reference.meta_step(model, support, query, inner_steps=2)
    assert model.unused.grad is None
    tasks = reference.adapt(model, support)
    assert torch.equal(tasks.parameters["unused"], torch.ones(T, 2))


def test_shared_layers() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(2, 3))
    copies = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), model[4])
    for layer in (copies[0], copies[2]):
        layer.load_state_dict(shared.state_dict())
    support, query = classification()
    reference.meta_step(model, support, query, inner_steps=0)
    together, last = shared.weight.grad, model[4].weight.grad
    model[4].zero_grad()
    reference.meta_step(copies, support, query, inner_steps=0)
    assert together is not None
    assert last is not None
    assert_close(together, copies[0].weight.grad + copies[2].weight.grad, "meta_f64")
    assert len(list(reference.adapt(model, support).parameters)) == 4


def test_learned_rates_pass_their_gradient_on() -> None:
    model, (support, query) = network(), classification()
    rate = torch.tensor(0.4, requires_grad=True)
    logarithm = torch.tensor(0.4).log().requires_grad_()
    reference.meta_step(model, support, query, inner_lr=rate, inner_steps=2)
    reference.meta_step(model, support, query, inner_lr=logarithm.exp(), inner_steps=2)
    assert rate.grad is not None
    assert logarithm.grad is not None
    assert_close(logarithm.grad, 0.4 * rate.grad, "meta_f64")
    lost = rate.detach().requires_grad_()
    reference.meta_step(model, support, query, inner_lr=lost, inner_steps=0)
    assert lost.grad is not None
    assert float(lost.grad) == 0.0


@pytest.mark.parametrize("tasks", [2, 16])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_rates_beyond_the_models_dtype_are_infinite(tasks: int, backend: Any) -> None:
    model = nn.Linear(2, 1).float()
    data = torch.ones(tasks, 3, 2).float(), torch.zeros(tasks, 3, 1).float()
    for _ in range(2):
        result = fastmaml.meta_step(model, data, data, loss="mse", inner_lr=1e300, backend=backend)
        assert not result.task_losses.isfinite().any()


def test_rates_of_another_dtype() -> None:
    model, (support, query) = network(), classification()
    rate = torch.tensor(0.25, dtype=torch.float32, requires_grad=True)
    result = reference.meta_step(model, support, query, inner_lr=rate)
    assert result.loss.dtype is torch.float64
    assert rate.grad is not None
    assert rate.grad.dtype is torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter(mode: Callable[[], Any]) -> None:
    model, (support, query) = network(), classification()
    expected = reference.meta_step(model, support, query, inner_steps=2)
    grads = gradients(model)
    model.zero_grad()
    with mode():
        support = tuple(tensor.clone() for tensor in support)
        result = reference.meta_step(model, support, query, inner_steps=2)
        adapted = reference.adapt(model, support, inner_steps=2).predict(query[0])
    assert_close(adapted, expected.logits, "meta_f64")
    assert torch.equal(result.logits, expected.logits)
    for actual, truth in zip(gradients(model), grads, strict=True):
        assert torch.equal(actual, truth)


def test_results_carry_no_graph() -> None:
    model, (support, query) = network(), classification()
    result = reference.meta_step(model, support, query)
    assert (result.loss.shape, result.task_losses.shape) == ((), (T,))
    assert result.logits.shape == (T, Q, 3)
    assert not result.loss.requires_grad
    assert not result.logits.requires_grad
    assert result.backend == "reference"
    assert result.accuracy is not None
    right = result.logits.argmax(-1) == query[1]
    assert float(result.accuracy) == float(right.sum()) / (T * Q)
    assert reference.meta_step(network(), *regression(3), loss="mse").accuracy is None


def test_class_probabilities() -> None:
    model, (support, query) = network(), classification()
    hard = reference.meta_step(model, support, query)
    soft = [(x, nn.functional.one_hot(y, 3).double()) for x, y in (support, query)]
    result = reference.meta_step(model, *soft)
    assert_close(result.task_losses, hard.task_losses, "meta_f64")
    assert result.accuracy == hard.accuracy


def test_callable_losses() -> None:
    model, (support, query) = network(), regression(3)
    named = reference.meta_step(model, support, query, loss="mse")
    written = reference.meta_step(
        model, support, query, loss=lambda logits, y: (logits - y).square().mean()
    )
    assert_close(written.task_losses, named.task_losses, "meta_f64")


def test_strides_do_not_matter() -> None:
    model, (support, query) = network(), classification()
    x = support[0].mT.contiguous().mT
    y = support[1][:1].expand(T, S)
    assert not x.is_contiguous()
    strided = reference.meta_step(model, (x, y), query)
    dense = reference.meta_step(model, (support[0], y.contiguous()), query)
    assert_close(strided.logits, dense.logits, "meta_f64")


def test_in_place_models_leave_the_data_alone() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 3), nn.ELU(inplace=True))
    support, query = classification()
    before = support[0].clone(), query[0].clone()
    reference.meta_step(model, support, query, inner_steps=2)
    reference.adapt(model, support).predict(query[0])
    assert torch.equal(support[0], before[0])
    assert torch.equal(query[0], before[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_losses_are_reported(bad: float) -> None:
    model, (support, query) = network().eval(), classification()
    support[0][1, 0, 0] = bad
    losses = reference.meta_step(model, support, query).task_losses
    assert losses.isfinite().tolist() == [True, False, True]


def test_adapted_tasks_predict() -> None:
    model, (support, query) = network(), classification()
    tasks = reference.adapt(model, support, inner_steps=3)
    result = reference.meta_step(model, support, query, inner_steps=3)
    assert tasks.backend == "reference"
    assert {name: p.shape[1:] for name, p in tasks.parameters.items()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert_close(tasks.predict(query[0]), result.logits, "meta_f64")
    assert "parameters" in repr(tasks)
    refused(
        ShapeError,
        "predict: query x must be [T=3, Q, 2] like support x, got [2, 5, 2].",
        lambda: tasks.predict(query[0][:2]),
    )


# Errors, and what they leave behind.


def test_errors_leave_gradients_alone() -> None:
    model, (support, query) = network(), classification()
    reference.meta_step(model, support, query)
    before = gradients(model)
    query[1][T - 1, 0] = 3
    refused(
        SettingError,
        "meta_step: query y must hold class indices 0 to 2, as the model has 3 outputs, got 3 at "
        "[2, 0].",
        lambda: reference.meta_step(model, support, query),
    )
    query[1][T - 1, 0] = 0
    spent = torch.tensor(-1.0, requires_grad=True).exp()
    spent.backward()
    refused(
        SettingError,
        "meta_step: inner_lr must have a graph that no call has gone back through, got one that "
        "was freed; compute it anew for each call.",
        lambda: reference.meta_step(model, support, query, inner_lr=spent),
    )
    for now, then in zip(gradients(model), before, strict=True):
        assert torch.equal(now, then)


def test_models_that_cannot_be_trained() -> None:
    support, query = classification()
    refused(
        SettingError,
        "meta_step: the model must have a parameter with requires_grad=True, got none in Tanh; "
        "call model.requires_grad_().",
        lambda: reference.meta_step(nn.Tanh(), support, query),
    )
    refused(
        SettingError,
        "adapt: the model must have a parameter with requires_grad=True, got none in "
        "Sequential; call model.requires_grad_().",
        lambda: reference.adapt(network().requires_grad_(False), support),
    )
    refused(
        SettingError,
        "meta_loss: model must be a torch.nn.Module, got function.",
        lambda: reference.meta_loss(lambda x: x, support, query),  # type: ignore[arg-type]
    )


def test_models_of_several_kinds() -> None:
    support, query = classification()
    model = network()
    model[3].float()
    refused(
        DtypeError,
        "meta_step: the model's parameters must be of one dtype, got torch.float64 for "
        "`0.weight` and torch.float32 for `3.weight`; call model.float().",
        lambda: reference.meta_step(model, support, query),
    )
    model = network()
    model[5].to("meta")
    refused(
        DeviceError,
        "meta_step: the model's parameters must be on one device, got cpu for `0.weight` and "
        'meta for `5.weight`; call model.to("cpu").',
        lambda: reference.meta_step(model, support, query),
    )


def test_outputs_that_do_not_fit() -> None:
    support, query = classification()
    flat = nn.Sequential(nn.Linear(2, 3), nn.Flatten(0))
    refused(
        ShapeError,
        "meta_step: the model must return one output per row, got [12] for 4 rows.",
        lambda: reference.meta_step(flat, support, query),
    )
    refused(
        ShapeError,
        "meta_loss: support y must be [T=3, S=4, 3] like the model's output, got [3, 4, 1].",
        lambda: reference.meta_loss(network(), *regression(), loss="mse"),
    )
    for loss, came in [
        (lambda logits, y: logits - y, "[4, 3]"),
        (lambda logits, y: 1.0, "float"),
    ]:
        refused(
            ShapeError,
            f"meta_step: loss must return a 0-dim tensor per task, got {came}; reduce it with "
            ".mean() or .sum().",
            lambda loss=loss: reference.meta_step(  # type: ignore[misc]
                network(), *regression(3), loss=loss
            ),
        )
