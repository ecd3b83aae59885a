"""`fastmaml.evaluate`: the figures against a plain loop, and what it says about bad arguments."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from device_code import on_fibers
from forced import Force
from tolerances import TOLERANCE, assert_close
from torch import nn
from torch.func import functional_call

import fastmaml
from fastmaml.calls.evaluate import Evaluation
from fastmaml.data import Episode, SinusoidTasks, episodes
from fastmaml.engine import binding
from fastmaml.errors import SettingError


def classification(sizes: tuple[int, ...]) -> list[Episode]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for tasks in sizes:
        x = torch.randn(tasks, 9, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (tasks, 9), generator=generator)
        result.append(((x[:, :5], y[:, :5]), (x[:, 5:], y[:, 5:])))
    return result


def by_hand(model: nn.Module, batches: list[Episode], steps: int, rate: float) -> list[list[float]]:
    """Losses and accuracies [2, tasks] after `steps` steps, one task at a time."""
    losses, rates = [], []
    for (support_x, support_y), (query_x, query_y) in batches:
        for task in range(len(support_x)):
            phi = {
                name: value.detach().requires_grad_() for name, value in model.named_parameters()
            }
            for _ in range(steps):
                logits = functional_call(model, phi, (support_x[task],))
                loss = nn.functional.cross_entropy(logits, support_y[task])
                grads = torch.autograd.grad(loss, list(phi.values()))
                phi = {
                    name: (value - rate * grad).detach().requires_grad_()
                    for (name, value), grad in zip(phi.items(), grads, strict=True)
                }
            logits = functional_call(model, phi, (query_x[task],))
            losses.append(nn.functional.cross_entropy(logits, query_y[task]).item())
            rates.append((logits.argmax(1) == query_y[task]).double().mean().item())
    return [losses, rates]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_figures_agree_with_a_plain_loop(backend: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    before = [value.clone() for value in model.parameters()]
    batches = classification((3, 1, 2))
    result = fastmaml.evaluate(model, iter(batches), inner_steps=3, inner_lr=0.5, backend=backend)
    assert result.tasks == 6
    assert result.backend in ("fused", "reference")
    assert result.accuracy is not None
    assert result.accuracy_interval is not None
    near = {"rel": TOLERANCE["meta_f64"], "abs": TOLERANCE["meta_f64"]}
    for steps in range(4):
        losses, rates = by_hand(model, batches, steps, 0.5)
        for values, mean, interval in (
            (losses, result.loss, result.loss_interval),
            (rates, result.accuracy, result.accuracy_interval),
        ):
            centre = sum(values) / 6
            spread = math.sqrt(sum((value - centre) ** 2 for value in values) / 6)
            assert mean[steps] == pytest.approx(centre, **near)
            assert interval[steps] == pytest.approx(1.96 * spread / math.sqrt(6), **near)
    assert all(value.grad is None for value in model.parameters())
    assert all(map(torch.equal, before, model.parameters()))


def test_regression_has_no_accuracy_and_batches_do_not_matter() -> None:
    model = nn.Linear(1, 1)
    source = SinusoidTasks(5, 5)
    ((support_x, support_y), (query_x, query_y)) = next(
        iter(episodes(source, tasks=6, batch=6, seed=0))
    )
    cut = [
        ((support_x[i : i + 2], support_y[i : i + 2]), (query_x[i : i + 2], query_y[i : i + 2]))
        for i in range(0, 6, 2)
    ]
    whole = [((support_x, support_y), (query_x, query_y))]
    one, two = (
        fastmaml.evaluate(model, batches, inner_steps=2, loss="mse", inner_lr=0.01)
        for batches in (whole, cut)
    )
    assert one.accuracy is None
    assert one.loss == two.loss
    assert one.tasks == two.tasks == 6


@pytest.mark.parametrize("steps", [-1, 1.0, True, "2", None])
def test_inner_steps_must_count(steps: object) -> None:
    with pytest.raises(SettingError, match=r"inner_steps must be .*, got"):
        fastmaml.evaluate(nn.Linear(4, 3).double(), classification((1,)), inner_steps=steps)


def test_inner_steps_of_any_integer_type() -> None:
    model = nn.Linear(4, 3).double()
    for steps in (np.int64(2), torch.tensor(2)):
        result = fastmaml.evaluate(model, classification((2,)), inner_steps=steps)
        assert result == fastmaml.evaluate(model, classification((2,)), inner_steps=2)


def test_no_episodes() -> None:
    with pytest.raises(SettingError, match="at least one batch of tasks, got none"):
        fastmaml.evaluate(nn.Linear(4, 3), [], inner_steps=1)


@pytest.mark.parametrize("episodes", [None, 3, nn.Linear(4, 3)], ids=["none", "number", "model"])
def test_what_is_no_batches(episodes: Any) -> None:
    text = f"^evaluate: episodes must be batches .* got {type(episodes).__name__}; pass a list, or "
    with pytest.raises(SettingError, match=text):
        fastmaml.evaluate(nn.Linear(4, 3), episodes, inner_steps=1)


@pytest.mark.parametrize("batch", [3, None, (1, 2, 3), [], "abc"], ids=str)
def test_a_batch_that_is_no_pair(batch: Any) -> None:
    text = rf"^evaluate: episodes .* got one that is {type(batch).__name__}: .*; make each a pair"
    with pytest.raises(SettingError, match=text):
        fastmaml.evaluate(nn.Linear(4, 3).double(), [*classification((2,)), batch], inner_steps=1)


def test_errors_of_the_callers_own_batches_arrive() -> None:
    def batches() -> Any:
        yield from classification((2,))
        raise TypeError("the caller's")

    with pytest.raises(TypeError, match=r"^the caller's$"):
        fastmaml.evaluate(nn.Linear(4, 3).double(), batches(), inner_steps=1)


def test_table_and_dict() -> None:
    result = Evaluation(600, (2.0, 1.0), (0.1, 0.05), (0.2, 0.9), (0.01, 0.02), "fused")
    assert " ".join(str(result).splitlines()[2].split()) == "1 1.0000 +- 0.0500 90.00 +- 2.00"
    assert result.as_dict()["accuracy"] == (0.2, 0.9)


def images(freeze: tuple[int, ...] = ()) -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(5, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip
    for layer in freeze:
        model[layer].requires_grad_(False)
    return model


@pytest.mark.parametrize("factored", [0, 1], ids=["dense", "factored"])
@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("freeze", [(), (0, 1), (7,)], ids=["all", "last", "first"])
@pytest.mark.parametrize("device", [False, True], ids=["cpu", "fibers"])
def test_one_run_gives_every_point(
    device: bool,
    freeze: tuple[int, ...],
    steps: int,
    factored: int,
    force: Force,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a frozen first layer makes is there once for all passes over a set."""
    force(factored=factored)
    model = images(freeze)
    batch = (
        (torch.randn(2, 6, 2, 8, 8).double(), torch.randint(3, (2, 6))),
        (torch.randn(2, 4, 2, 8, 8).double(), torch.randint(3, (2, 4))),
    )
    options = {"inner_steps": steps, "inner_lr": 0.1}
    expected = fastmaml.evaluate(model, [batch], backend="reference", **options)
    runs = 0
    run = binding.CompiledPlan.run

    def counted(plan: binding.CompiledPlan, *arguments: Any) -> object:
        nonlocal runs
        runs += plan.settings.mode == "curve"
        return run(plan, *arguments)

    monkeypatch.setattr(binding.CompiledPlan, "run", counted)
    with on_fibers() if device else nullcontext():
        found = fastmaml.evaluate(model, [batch], backend="fused", **options)
    assert runs == 1
    assert found.backend == "fused"
    assert found.accuracy == expected.accuracy
    for ours, theirs in (
        (found.loss, expected.loss),
        (found.loss_interval, expected.loss_interval),
    ):
        assert_close(torch.tensor(ours), torch.tensor(theirs), "meta_f64")
