"""What is kept between calls: bounded for the whole process, and gone with the model."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from forced import Force, Thread
from small import network
from torch import Tensor, nn

import fastmaml
from fastmaml.engine import plan
from fastmaml.engine.binding import CompiledPlan
from fastmaml.engine.kept import Recent, holds_itself
from fastmaml.engine.workspaces import WORKSPACES, Workspaces


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    """Other tests' models and workspaces, gone before and after."""
    gc.collect()
    WORKSPACES.release()
    yield
    WORKSPACES.release()


def step(model: nn.Module, *, rows: int = 4, tasks: int = 2, steps: int = 1) -> None:
    x, y = torch.randn(tasks, rows, 2), torch.randint(3, (tasks, rows))
    fastmaml.meta_step(model, (x, y), (x, y), inner_lr=0.1, inner_steps=steps, backend="fused")


def deep(layers: int = 40) -> nn.Module:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)), nn.Linear(2, 3))


def plans_of(*models: nn.Module) -> list[CompiledPlan]:
    """Those that the cache holds, oldest first."""
    found = [
        held
        for model in models
        for _, traced in plan._CACHE[model].networks.everything()
        if isinstance(traced, plan.Traced)
        for held in traced.plans.values()
    ]
    return sorted(found, key=lambda held: held.used)


def held_by(*models: nn.Module) -> int:
    """Bytes of their plans and of the traces that these were made from."""
    traces = {
        id(traced): traced
        for model in models
        for _, traced in plan._CACHE[model].networks.everything()
        if isinstance(traced, plan.Traced)
    }
    plans = sum(held.bytes for held in plans_of(*models))
    return plans + sum(traced.bytes for traced in traces.values())


class Odd(nn.Module):
    """Holds itself in one of the ways that models do."""

    def __init__(self, hold: Callable[[Odd], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.layer.held = hold(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def method(self) -> None:
        """For those who hold it."""


HOLDS: dict[str, Callable[[Odd], Any]] = {
    "nothing": lambda model: None,
    "list": lambda model: [model],
    "dict": lambda model: {"parent": model, 3: "three"},
    "key": lambda model: {model: 1},
    "set": lambda model: {model},
    "tuple": lambda model: (1, (model,)),
    "method": lambda model: model.method,
    "closure": lambda model: lambda: model,
    "partial": lambda model: partial(Odd.method, model),
}


@pytest.mark.parametrize("how", HOLDS)
def test_a_model_goes_whatever_holds_it_within(how: str) -> None:
    model = Odd(HOLDS[how])
    step(model)
    first = plan.lookup(model)
    assert plan.lookup(model) is first, "nothing has changed"
    gone = [weakref.ref(held) for held in (model, plan._CACHE[model], *plans_of(model))]
    assert len(gone) == 3
    del model, first
    gc.collect()
    assert all(ref() is None for ref in gone)


def test_a_changed_model_gives_its_plans_back() -> None:
    model = network()
    step(model)
    gone = [weakref.ref(held) for held in (plan._CACHE[model], *plans_of(model))]
    model.eval()
    step(model)
    gc.collect()
    assert all(ref() is None for ref in gone)


@pytest.mark.parametrize("how", [how for how in HOLDS if how != "nothing"])
def test_what_a_module_holds_is_watched(how: str) -> None:
    model, other = Odd(HOLDS[how]), Odd(HOLDS["nothing"])
    first = plan.lookup(model)
    model.layer.held = HOLDS[how](other)
    second = plan.lookup(model)
    assert second is not first
    model.layer.held = None
    gc.collect()
    assert plan.lookup(model) is not second


class Reads(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if self.layer.held[0] else x


def test_contents_that_the_forward_reads_are_watched() -> None:
    for kind in (Odd, Reads):
        model = kind(lambda model: [1, [2], {"a": 3}])
        first = plan.lookup(model)
        assert plan.lookup(model) is first
        model.layer.held[1][0] = 3
        assert (plan.lookup(model) is not first) == (kind is Reads)


def test_only_models_that_hold_themselves_are_taken_for_such() -> None:
    assert not holds_itself(network())
    assert not holds_itself(deep())
    for how, hold in HOLDS.items():
        assert holds_itself(Odd(hold)) == (how != "nothing"), how
        other = Odd(HOLDS["nothing"])
        assert not holds_itself(Odd(lambda model, hold=hold, other=other: hold(other))), how


@pytest.mark.parametrize("change", ["train", "freeze", "replace", "add", "hook"])
def test_models_that_hold_themselves_are_watched_like_others(change: str) -> None:
    model = Odd(HOLDS["list"])
    step(model)
    first = plan.lookup(model)
    assert plan.lookup(model) is first
    changes: dict[str, Callable[[], object]] = {
        "train": model.eval,
        "freeze": lambda: model.layer.bias.requires_grad_(False),
        "replace": lambda: setattr(model.layer, "bias", nn.Parameter(torch.zeros(3))),
        "add": lambda: model.add_module("more", nn.ReLU()),
        "hook": lambda: model.layer.register_forward_hook(lambda *_: None),
    }
    changes[change]()
    assert plan.lookup(model) is not first


def test_the_last_used_entries_stay() -> None:
    recent = Recent[int, int](8)
    for i in range(100):
        recent[i] = i
        assert recent[0] == 0, "used all the time"
        assert len(recent.everything()) <= 8
    assert [recent[i] for i in range(97, 100)] == [97, 98, 99]
    assert recent[50] is None
    recent.drop(0)
    assert recent[0] is None


def test_many_shapes_of_one_model() -> None:
    model = network()
    for tasks in range(1, 201):
        step(model, tasks=tasks)
    (held,) = plans_of(model)
    assert len(held._bytes.everything()) <= 64
    for rows in range(2, 102):
        step(model, rows=rows)
        step(model, rows=300)
    traces = plan._CACHE[model].networks.everything()
    assert len(traces) <= plan._KEPT
    (traced,) = {id(traced): traced for _, traced in traces}.values()
    assert isinstance(traced, plan.Traced)
    assert len(traced._fits.everything()) <= plan._KEPT


def test_programs_of_all_models_share_one_bound(force: Force) -> None:
    first = deep()
    step(first)
    size = held_by(first)
    force(most_plan_bytes=16 * size)
    models = [deep() for _ in range(40)]
    favourite = models[0]
    for model in models:
        step(model)
        step(favourite)
        assert held_by(first, *(m for m in models if m in plan._CACHE)) <= 16 * size
    assert held_by(favourite) == size
    assert len(plans_of(*models[-4:])) == 4, "the last ones stay"
    assert not plans_of(models[1])
    step(models[1])
    assert len(plans_of(models[1])) == 1


def test_a_thousand_shapes_stay_within_the_bound(force: Force) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    )
    bound = 1 << 20
    force(most_plan_bytes=bound)
    made = 0
    for i in range(1000):
        height, width, rows = 8 + i % 20, 8 + i // 20 % 10, 2 + i // 200
        x = torch.zeros(1, 1, 1, 1, 1).expand(1, rows, 1, height, width)
        data = x, torch.zeros(1, 1, dtype=torch.int64).expand(1, rows)
        fastmaml.workspace_bytes(model, data, data, inner_steps=2)
        assert held_by(model) <= bound
        made = max(made, len(plans_of(model)))
    assert made > 4, "what fits is kept"


def test_one_program_may_be_larger_than_the_bound(force: Force) -> None:
    force(most_plan_bytes=1000)
    model = network()
    for steps in (1, 2, 1):
        step(model, steps=steps)
        first = plans_of(model)
        step(model, steps=steps)
        assert plans_of(model) == first
        assert len(first) == 1


def test_threads_that_make_room_at_once(force: Force) -> None:
    force(most_plan_bytes=100_000)
    shared = network()
    models = [[network() for _ in range(30)] for _ in range(4)]
    x, y = torch.randn(2, 10, 2), torch.randint(3, (2, 10))
    errors: list[Exception] = []

    def call(model: nn.Module, rows: int, steps: int) -> None:
        data = x[:, :rows], y[:, :rows]
        fastmaml.meta_step(model, data, data, inner_lr=0.1, inner_steps=steps, backend="fused")

    def work(k: int) -> None:
        try:
            for i, model in enumerate(models[k]):
                call(shared, 2 + (k + i) % 7, 1 + i % 3)
                call(model, 4, 1)
        except Exception as error:
            errors.append(error)

    threads = [Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_large_workspace_goes_after_many_small_calls() -> None:
    kept, cpu = Workspaces(small=1000), torch.device("cpu")
    for size in (50_000, 100_000):
        kept.keep(torch.empty(size, dtype=torch.uint8))
    for _ in range(kept.patience - 1):
        workspace = kept.take(200, cpu)
        assert workspace.numel() == 100_000
        kept.keep(workspace)
    assert kept.take(200, cpu).numel() == 200
    assert not kept.idle


def test_a_large_call_now_and_then_keeps_its_workspace() -> None:
    kept, cpu = Workspaces(small=1000), torch.device("cpu")
    workspace = torch.empty(100_000, dtype=torch.uint8)
    for i in range(5 * kept.patience):
        kept.keep(workspace)
        workspace = kept.take(90_000 if i % 20 == 0 else 200, cpu)
        assert workspace.numel() == 100_000


def test_workspaces_go_with_the_model() -> None:
    model = network()
    step(model)
    assert len(WORKSPACES.idle) == 1
    del model
    gc.collect()
    assert not WORKSPACES.idle
