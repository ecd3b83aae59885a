"""Which form the fallback chooses, that it keeps to it, and what it holds meanwhile."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_fallback import problem, same, verdicts
from torch import Tensor, nn

from benchmarks.fallback import Case, Contest, peak_bytes
from fastmaml import reference
from fastmaml.definition import fallback
from fastmaml.losses import resolve
from fastmaml.reference import Outcome
from fastmaml.settings import check_options
from fastmaml.tasks import validate

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tasks are enough here."""
    monkeypatch.setattr(fallback, "_FEWEST", 4)


def net(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), *middle, nn.Linear(8, 3))


def call(model: nn.Module, given: Any, **how: Any) -> Outcome:
    return fallback.compute(model, *given, want_grad=True, **how)


def equal(one: Outcome, other: Outcome) -> bool:
    pairs = zip(fallback._tensors(one), fallback._tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def seconds(monkeypatch: pytest.MonkeyPatch, loop: float, batched: float) -> None:
    """Let the clock say that the forms take so long."""

    def told(run: Callable[[], Outcome | None]) -> float:
        return loop if getattr(run, "__name__", "") == "loop" else batched

    monkeypatch.setattr(fallback, "_seconds", told)


class Draws(nn.Module):
    """Depends on a generator that is not torch's."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.net, self.draw = net(), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (1 + self.draw())  # type: ignore[no-any-return]


@pytest.mark.parametrize("draw", [random.random, np.random.normal], ids=["python", "numpy"])
def test_who_draws_other_numbers_draws_as_the_loop_does(draw: Callable[[], float]) -> None:
    model, given = Draws(draw), problem()
    for _ in range(3):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - the model draws from it
        ours = call(model, given)
        after = draw()
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - the model draws from it
        assert equal(ours, reference.compute(model, *given, want_grad=True))
        assert draw() == after


def test_a_disturbed_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a slow turn of the loop's nor a quick one of vmap's makes the choice."""
    for loops, others in (
        ([1.0, 9.0, 1.0], [1.0] * 3),
        ([9.0, 9.0, 1.0], [1.0] * 3),
        ([1.0] * 3, [1, 0.1, 1]),
    ):
        told = [iter(loops), iter(others)]
        monkeypatch.setattr(fallback, "_TRIALS", 3)
        monkeypatch.setattr(
            fallback, "_seconds", lambda run, told=told: next(told[run.__name__ != "loop"])
        )
        model = net()
        call(model, problem())
        assert verdicts(model) == [False]


@pytest.mark.parametrize(("batched", "chosen"), [(0.5, True), (0.9, False), (2.0, False)])
def test_the_batched_form_must_be_clearly_faster(
    batched: float, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds(monkeypatch, 1.0, batched)
    model, given = net(), problem()
    expected = reference.compute(model, *given, want_grad=True)
    first = call(model, given)
    assert verdicts(model) == [chosen]
    same(first, expected)
    assert equal(first, expected) is not chosen  # the rounding of another order
    for _ in range(2):
        assert equal(call(model, given), first)


def test_each_number_of_tasks_and_steps_is_a_kind_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = net()
    for tasks, steps, batched in ((4, 2, 0.1), (5, 2, 9.0), (4, 3, 9.0), (5, 3, 0.1)):
        seconds(monkeypatch, 1.0, batched)
        call(model, problem(tasks, inner_steps=steps))
    assert verdicts(model) == [True, False, False, True]


@pytest.mark.parametrize("chunk", [1, 2, 4, 32])
def test_graphs_of_a_chunk_stay_below_the_bound(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds(monkeypatch, 1.0, 0.1)
    model, given = net(), problem(40)
    held = 4 * sum(parameter.nbytes for parameter in model.parameters())

    def count(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        reference.compute(model, *problem(1), want_grad=True)
    monkeypatch.setattr(fallback, "_MOST_BYTES", held * chunk)
    batched, sizes = fallback._batched, []

    def noted(call: Any, size: int) -> Outcome:
        sizes.append(size)
        return batched(call, size)

    monkeypatch.setattr(fallback, "_batched", noted)
    first = call(model, given)
    assert equal(call(model, given), first)
    assert set(sizes) == ({chunk} if chunk >= 4 else set())
    same(first, reference.compute(model, *given, want_grad=True))


@pytest.mark.parametrize("network", ["sinusoid", "dropout", "attention", "conv4"])
@pytest.mark.parametrize("steps", [1, 5])
def test_what_is_reckoned_is_no_less_than_what_is_held(network: str, steps: int) -> None:
    """So vmap takes no more than the bound beyond what the loop does."""
    contest = Contest(Case(network, 16, steps, steps == 5), torch.float32)
    data = validate(
        "meta_step", contest.support, contest.query,
        dtype=torch.float32, device=torch.device("cpu"), loss=resolve("cross_entropy"),
    )  # fmt: skip
    settings = check_options(
        "meta_step", {"inner_lr": 0.05, "inner_steps": steps, "first_order": steps == 5}
    )
    one = fallback._Call(contest.model, data, settings, True, "meta_step", False)
    chunk = fallback._affordable(one)
    loop = peak_bytes(contest, one.loop)
    assert peak_bytes(contest, lambda: one.batched(chunk)) <= loop + fallback._MOST_BYTES


def test_deterministic_algorithms_mean_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds(monkeypatch, 1.0, 0.1)
    model, given = net(), problem()
    batched = [call(model, given) for _ in range(2)][-1]
    expected = reference.compute(model, *given, want_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        assert equal(call(model, given), expected)
        assert not equal(batched, expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_trials_give_random_numbers_back() -> None:
    states = []
    for run in (fallback.compute, reference.compute):
        model, given = net(nn.Dropout(0.5)), problem()
        torch.manual_seed(1)
        run(model, *given, want_grad=True)
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


def test_a_forward_that_derives_by_itself_runs_the_loop() -> None:
    """Torch's transforms do not work where saved tensors are counted."""

    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.func.grad(lambda at: at.square().sum())(x)  # type: ignore[no-any-return]

    model, given = net(Slope()), problem()
    expected = reference.compute(model, *given, want_grad=True)
    for _ in range(2):
        assert equal(call(model, given), expected)
    assert verdicts(model) == [False]


class Counted(nn.Module):
    """Attention that torch cannot derive twice, and how often it ran."""

    passes = 0

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        Counted.passes += 1
        y = self.into(x).reshape(-1, 1, 3, 4)
        y = nn.functional.scaled_dot_product_attention(y, y, y)
        return self.out(y.reshape(-1, 12))  # type: ignore[no-any-return]


def test_attention_by_its_formula_is_remembered() -> None:
    model, (tasks, settings) = Counted(), problem()
    passes = []
    for _ in range(3):
        Counted.passes = 0
        reference.compute(model, tasks, settings, want_grad=True)
        passes.append(Counted.passes)
    exact = tasks.tasks * (settings.inner_steps + 1)
    assert passes[0] > exact
    assert passes[1:] == [exact, exact]


def test_figures_after_every_step_take_one_adaptation() -> None:
    model, (tasks, settings) = Counted(), problem(inner_steps=3)
    Counted.passes = 0
    run = reference.compute(model, tasks, settings, want_grad=False, every_step=True)
    assert Counted.passes == tasks.tasks * (3 + 4)
    for steps in range(4):
        settings = settings._replace(inner_steps=steps)
        point = reference.compute(model, tasks, settings, want_grad=False)
        assert torch.equal(run.task_losses[:, steps], point.task_losses)
        assert torch.equal(run.logits[:, steps], point.logits)


def test_figures_after_every_step_may_be_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds(monkeypatch, 1.0, 0.1)
    model, (tasks, settings) = net(), problem(inner_steps=3)
    run = reference.compute(model, tasks, settings, want_grad=False, every_step=True)
    for _ in range(2):
        same(fallback.compute(model, tasks, settings, want_grad=False, every_step=True), run)
    assert verdicts(model) == [True]


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("network", ["mlp", "lstm", "attention", "conv4"])
def test_no_more_memory_than_a_plain_loop(
    network: str, steps: int, first_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first call, too: one task's graph at a time, and nothing of it kept."""
    monkeypatch.setattr(fallback, "_MOST_BYTES", 0)
    torch.set_default_dtype(torch.float32)
    contest = Contest(Case(network, 3, steps, first_order))
    contest.plain()
    plain, first, later = (
        peak_bytes(contest, step) for step in (contest.plain, contest.ours, contest.ours)
    )
    assert max(first, later) <= 1.05 * plain


def test_the_loop_imports_nothing_large() -> None:
    """As torch does when backward is given a gradient to begin with: sympy, 34 MiB."""
    code = (
        "import sys, torch, fastmaml\n"
        "x, y = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)\n"
        "fastmaml.reference.meta_step(torch.nn.Linear(4, 4), (x, y), (x, y), loss='mse')\n"
        "assert 'sympy' not in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
