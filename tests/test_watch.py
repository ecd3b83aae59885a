"""What a forward reads: changes are seen, and what cannot be watched runs on the reference."""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close, within
from torch import Tensor, nn

import fastmaml
from fastmaml.tracing.trace import trace
from fastmaml.tracing.watch import Watch

DATA = torch.randn(2, 6, 4, dtype=torch.float64), torch.arange(6).remainder(3).repeat(2, 1)
PLACE = {"act": "relu", "more": [1, 2]}
SWITCH = True
COUNT = itertools.count()


def helper(h: Tensor) -> Tensor:
    return torch.tanh(h) if SWITCH else torch.relu(h)


def other_helper(h: Tensor) -> Tensor:
    return torch.sigmoid(h)


@dataclass
class Config:
    act: str = "relu"
    inner: dict[str, list[int]] = field(default_factory=lambda: {"layers": [1]})

    def name(self) -> str:
        return self.act


class Own:
    def __init__(self) -> None:
        self.act = "relu"


class Base(nn.Module):
    kind = "relu"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.cfg: dict[str, Any] = {"act": {"name": "relu"}}
        self.args, self.config, self.own = Namespace(act="relu"), Config(), Own()
        self.order = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}
        self.rng, self.generator = np.random.default_rng(0), torch.Generator()
        self.python_rng, self.turns = random.Random(0), itertools.cycle([0, 1])
        self.sizes, self.queue = np.ones(2), deque([1])

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))  # type: ignore[no-any-return]

    def act(self, h: Tensor) -> Tensor:
        return h


def by_name(h: Tensor, name: str) -> Tensor:
    return torch.relu(h) if name == "relu" else torch.tanh(h)


class Nested(Base):
    def act(self, h: Tensor) -> Tensor:
        return by_name(h, self.cfg["act"]["name"])


class ByNamespace(Base):
    def act(self, h: Tensor) -> Tensor:
        return by_name(h, self.args.act)


class ByMethod(Base):
    def act(self, h: Tensor) -> Tensor:
        return by_name(h, self.config.name())


class ByObject(Base):
    def act(self, h: Tensor) -> Tensor:
        return by_name(h, self.own.act)


class ByList(Base):
    def act(self, h: Tensor) -> Tensor:
        return torch.relu(h) if self.config.inner["layers"][0] else torch.tanh(h)


class ByOrder(Base):
    def act(self, h: Tensor) -> Tensor:
        for function in self.order.values():
            h = function(h)
        return h


class ByGlobal(Base):
    def act(self, h: Tensor) -> Tensor:
        return by_name(h, PLACE["act"])  # type: ignore[arg-type]


class ByHelper(Base):
    def act(self, h: Tensor) -> Tensor:
        return helper(h)


class ByClass(Base):
    def act(self, h: Tensor) -> Tensor:
        return by_name(h, self.kind)


class ByProperty(Base):
    @property
    def chosen(self) -> str:
        return self.args.act  # type: ignore[no-any-return]

    def act(self, h: Tensor) -> Tensor:
        return by_name(h, self.chosen)


class ByClosure(Base):
    def __init__(self) -> None:
        super().__init__()
        name = "relu"

        def choose(h: Tensor) -> Tensor:
            return by_name(h, name)

        def change() -> None:
            nonlocal name
            name = "tanh"

        self.choose, self.change = choose, change

    def act(self, h: Tensor) -> Tensor:
        return self.choose(h)


class ByGetattr(Base):
    def act(self, h: Tensor) -> Tensor:
        return by_name(h, getattr(self, "ar" + "gs").act)


def change_global(model: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLACE, "act", "tanh")


def change_switch(model: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SWITCH", False)


def change_helper(model: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "helper", other_helper)


def change_forward(model: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model), "forward", lambda self, x: self.b(torch.sigmoid(self.a(x))))


def change_layer(model: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: F.linear(x, self.weight))


CHANGES: list[tuple[type[Base], Callable[[Any, pytest.MonkeyPatch], object]]] = [
    (Nested, lambda m, _: m.cfg["act"].update(name="tanh")),
    (ByNamespace, lambda m, _: setattr(m.args, "act", "tanh")),
    (ByMethod, lambda m, _: setattr(m.config, "act", "tanh")),
    (ByObject, lambda m, _: setattr(m.own, "act", "tanh")),
    (ByList, lambda m, _: m.config.inner["layers"].__setitem__(0, 0)),
    (ByOrder, lambda m, _: m.order.update(tanh=m.order.pop("tanh"))),
    (ByGlobal, change_global),
    (ByHelper, change_switch),
    (ByHelper, change_helper),
    (ByClass, lambda m, patch: patch.setattr(ByClass, "kind", "tanh")),
    (ByProperty, lambda m, _: setattr(m.args, "act", "tanh")),
    (ByClosure, lambda m, _: m.change()),
    (ByGetattr, lambda m, _: setattr(m.args, "act", "tanh")),
    (Base, change_forward),
    (Base, change_layer),
    (Base, lambda m, patch: patch.setattr(Base, "act", lambda self, h: torch.tanh(h))),
]


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
@pytest.mark.parametrize("weak", [False, True], ids=["", "holds itself"])
@pytest.mark.parametrize(
    ("kind", "change"), CHANGES, ids=[f"{i}-{kind.__name__}" for i, (kind, _) in enumerate(CHANGES)]
)
def test_changes_are_seen(
    kind: type[Base], change: Any, weak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind().double()
    if weak:
        model.me = [model]
    dynamic = kind is ByGetattr  # every attribute counts as read then, and some cannot be watched
    first = fastmaml.meta_step(model, DATA, DATA)
    assert first.backend == ("reference" if dynamic else "fused")
    again = fastmaml.meta_step(model, DATA, DATA)
    assert_close(again.task_losses, first.task_losses, "meta_f64")
    change(model, monkeypatch)
    second = fastmaml.meta_step(model, DATA, DATA)
    truth = fastmaml.reference.meta_step(model, DATA, DATA)
    assert_close(second.task_losses, truth.task_losses, "meta_f64")
    assert not within(second.task_losses, first.task_losses)


def test_what_nobody_changes_is_traced_once() -> None:
    model = Nested().double()
    fastmaml.meta_step(model, DATA, DATA)
    first = fastmaml.engine.plan.lookup(model)
    PLACE["unread"] = 1
    model.args.unread = 2
    fastmaml.meta_step(model, DATA, DATA)
    assert fastmaml.engine.plan.lookup(model) is first
    del PLACE["unread"]


# --- what cannot be watched -----------------------------------------------------------------------


def reading(act: Callable[[Any, Tensor], Any]) -> Base:
    return type("Reads", (Base,), {"act": act})()  # type: ignore[no-any-return]


def local_import(model: Any, h: Tensor) -> Tensor:
    import random as dice

    return h if dice.random() < 2 else torch.tanh(h)


def writes_global(model: Any, h: Tensor) -> Tensor:
    global WRITTEN
    WRITTEN = 1
    return h


def through_a_helper(model: Any, h: Tensor) -> Tensor:
    return draw_and(h)


def draw_and(h: Tensor) -> Tensor:
    return h if np.random.uniform() < 2 else torch.tanh(h)  # noqa: NPY002


REFUSED: list[tuple[Callable[[Any, Tensor], Any], str]] = [
    (lambda m, h: h if np.random.rand() < 2 else -h, "calls `np.random`"),  # noqa: NPY002
    (lambda m, h: h if m.rng.random() < 2 else -h, "reads `rng` (numpy.random._generator.Gen"),
    (lambda m, h: h if m.python_rng.random() < 2 else -h, "reads `python_rng` (random.Random)"),
    (lambda m, h: h if random.random() < 2 else -h, "reads `random.random` (random.Random)"),
    (lambda m, h: h if random.SystemRandom().random() < 2 else -h, "calls `random.SystemRandom`"),
    (lambda m, h: h if next(m.turns) < 2 else -h, "reads `turns` (itertools.cycle)"),
    (lambda m, h: h if next(COUNT) < 2 else -h, "reads `COUNT` (itertools.count)"),
    (lambda m, h: h if time.time() > 0 else -h, "calls `time.time`"),
    (lambda m, h: h if os.environ.get("A") else -h, "reads `os.environ` (os._Environ)"),
    (lambda m, h: h if m.sizes[0] else -h, "reads `sizes` (numpy.ndarray)"),
    (lambda m, h: h if m.queue else -h, "reads `queue` (collections.deque)"),
    (lambda m, h: h if open("x") else -h, "calls `open`"),  # noqa: SIM115
    (lambda m, h: h if eval("m.args") else -h, "calls `eval`"),
    (local_import, "imports `random`"),
    (writes_global, "writes `WRITTEN`"),
    (through_a_helper, "calls `np.random`"),
]


@pytest.mark.parametrize(("act", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_be_watched_is_refused(act: Any, text: str) -> None:
    reason = Watch(reading(act)).reason
    assert reason is not None
    assert reason.startswith(text)
    with pytest.raises(fastmaml.UnsupportedModelError, match="Reads"):
        trace(reading(act), (4,))


def test_a_generator_of_torchs_is_refused_where_it_draws() -> None:
    model = reading(lambda m, h: h if torch.rand((), generator=m.generator) < 2 else -h)
    state = model.generator.get_state()
    with pytest.raises(fastmaml.UnsupportedModelError):
        trace(model, (4,))
    assert torch.equal(state, model.generator.get_state())


HARMLESS: list[Callable[[Any, Tensor], Any]] = [
    lambda m, h: torch.relu(h) if math.prod(h.shape[1:]) > np.prod((1, 2)) else h,
    lambda m, h: torch.tanh(h).view(h.size(0), -1) if len([*range(3)]) == 3 else h,
    lambda m, h: [f(h) for f in (torch.tanh, F.relu)][-1],
    lambda m, h: torch.tanh(h) if isinstance(h, Tensor) and hasattr(h, "shape") else -h,
    lambda m, h: torch.tanh(h) if torch.is_grad_enabled() and h.dtype.is_floating_point else -h,
]


@pytest.mark.parametrize("act", HARMLESS)
def test_ordinary_code_is_taken(act: Any) -> None:
    model = reading(act).double()
    assert Watch(model).reason is None
    result = fastmaml.meta_step(model, DATA, DATA, backend="fused")
    truth = fastmaml.reference.meta_step(model, DATA, DATA)
    assert_close(result.task_losses, truth.task_losses, "meta_f64")


def test_counters_deep_inside_are_refused() -> None:
    def count(m: Any, h: Tensor) -> Tensor:
        m.config.inner["layers"][0] += 1
        return h

    model = reading(count)
    with pytest.raises(fastmaml.UnsupportedModelError, match="whose forward changes what it reads"):
        trace(model, (4,))
    assert model.config.inner["layers"] == [1]
