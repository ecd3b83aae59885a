"""Threads that call everything at the same time, a loader that forks, and Ctrl-C at any moment."""

from __future__ import annotations

import copy
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from forced import Force, Thread
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from trusted import quiet

import fastmaml

THREADS = 8
X, Y = torch.randn(3, 5, 6), torch.arange(15).remainder(3).reshape(3, 5)
DATA = X, Y
HOW: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 2}
_Call = Callable[[nn.Module], list[Tensor]]


class Scaled(nn.Module):
    """What the engine does not take, as it reads numbers; vmap does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.tanh(self.a(x)))
        return self.b(h) * torch.erf(h.sum())  # type: ignore[no-any-return]


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def meta_step(model: nn.Module) -> list[Tensor]:
    backend: Any = "fused" if isinstance(model, nn.Sequential) else "auto"
    fastmaml.meta_step(model, DATA, DATA, backend=backend, **HOW)
    return grads(model)


def in_torch(model: nn.Module) -> list[Tensor]:
    fastmaml.meta_step(model, DATA, DATA, backend="reference", **HOW)
    return grads(model)


def defined(model: nn.Module) -> list[Tensor]:
    fastmaml.reference.meta_step(model, DATA, DATA, **HOW)
    return grads(model)


def predict(model: nn.Module) -> list[Tensor]:
    return [fastmaml.adapt(model, DATA, **HOW).predict(X)]


def meta_loss(model: nn.Module) -> list[Tensor]:
    loss = fastmaml.meta_loss(model, DATA, DATA, **HOW)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def verify(model: nn.Module) -> list[Tensor]:
    return [torch.tensor(fastmaml.verify(model, DATA, DATA, **HOW).error_float64 <= 1e-9)]


def plain(model: nn.Module) -> list[Tensor]:
    """Without the norm, whose statistics it would move."""
    first, *_, last = list(model.children())
    h = last(torch.relu(first(X))).square().mean()
    return list(torch.autograd.grad(h, [*first.parameters(), *last.parameters()]))


WRITE: list[_Call] = [meta_step, in_torch, defined]  # to `.grad`, which callers must not share
READ: list[_Call] = [predict, meta_loss, verify, plain]


class Tasks(Dataset[Tensor]):
    """Meta-gradients, made in the loader's processes."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        own = copy.deepcopy(self.model)
        return torch.cat([grad.flatten() for grad in meta_step(own)])


class Run:
    """Models, what calls of them may give, and what went wrong."""

    def __init__(self) -> None:
        self.models = [layers(), Scaled()]
        self.expected = {
            (i, call): list(self._results(model, call))
            for i, model in enumerate(self.models)
            for call in (*WRITE, *READ)
        }
        self.wrong: list[str] = []
        self.calls = [0] * THREADS
        self.stop = threading.Event()

    @staticmethod
    def _results(model: nn.Module, call: _Call) -> Iterator[list[Tensor]]:
        """A model's first call may run in a loop over tasks, the others under vmap."""
        own = copy.deepcopy(model)
        for _ in range(3):
            own.zero_grad()
            yield [t.clone() for t in call(own)]

    def check(self, i: int, call: _Call, got: list[Tensor], where: str) -> None:
        if not any(equal(got, one) for one in self.expected[i, call]):
            pairs = zip(got, self.expected[i, call][0], strict=False)
            off = [float((a - b).abs().max()) for a, b in pairs if a.dtype is not torch.bool]
            self.wrong.append(f"{call.__name__} of model {i}, {where}: bits off by {off}")

    def work(self, thread: int) -> None:
        """Calls in another order in each thread, on models of its own and on those of all."""
        draw = random.Random(thread)
        own = [copy.deepcopy(model) for model in self.models]
        try:
            while not self.stop.is_set():
                i, call = draw.randrange(2), draw.choice([*WRITE, *READ])
                shared = call in READ and draw.random() < 0.7
                own[i].zero_grad()
                self.check(i, call, call(self.models[i] if shared else own[i]), "in a thread")
                self.calls[thread] += 1
        except BaseException as error:
            self.wrong.append(f"{call.__name__} of model {i} in a thread: {error!r}")

    def load(self) -> None:
        """Forks, while others call."""
        expected = torch.cat([g.flatten() for g in self.expected[0, meta_step][0]])
        generator = torch.Generator()
        try:
            while not self.stop.is_set():
                loader = DataLoader(
                    Tasks(self.models[0]),
                    num_workers=2,
                    multiprocessing_context="fork",
                    generator=generator,
                    timeout=60,
                )
                if not all(torch.equal(batch[0], expected) for batch in loader):
                    self.wrong.append("other bits in a forked process")
                self.calls[-1] += 1
        except BaseException as error:
            self.wrong.append(f"in the loader: {error!r}")


def equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Interrupts:
    """Raises KeyboardInterrupt in the main thread, as Ctrl-C does, within a block alone."""

    def __init__(self) -> None:
        self.armed, self.raised, self.place = False, 0, ""

    def handle(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def call(self, run: Callable[[], None], after: float) -> bool:
        """Whether it was interrupted."""
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, after)
            run()
            self.armed = False
        except KeyboardInterrupt as error:
            self.raised += 1
            frames = traceback.extract_tb(error.__traceback__)[-10:-1]
            self.place = " > ".join(f"{frame.name}:{frame.lineno}" for frame in frames)
            return True
        return False


@contextmanager
def handling(interrupts: Interrupts) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, interrupts.handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def objects(model: nn.Module) -> list[Any]:
    """Identities of all that a model holds, in order, and the bits of its tensors but for .grad."""
    found: list[Any] = []
    for module in model.modules():
        for name, value in vars(module).items():
            inner = list(value.items()) if isinstance(value, dict) else []
            found += [name, id(value), *((key, id(item)) for key, item in inner)]
    for name, tensor in model.state_dict().items():
        found += [name, tensor.numpy().tobytes()]
    return [*found, [p.requires_grad for p in model.parameters()], model.training]


def surroundings() -> list[Any]:
    """What is set for the thread, and the generators."""
    return [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch._C._len_torch_function_stack(),
        torch._C._are_functorch_transforms_active(),
        torch._C._autograd._top_saved_tensors_default_hooks(True),
        torch.get_default_dtype(),
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002 - the global one
    ]


def interrupted_calls(run: Run, interrupts: Interrupts, wanted: int) -> None:
    """Calls of the main thread, of new models and of those that were called before."""
    draw = random.Random(0)
    around = surroundings()
    known = [copy.deepcopy(model) for model in run.models]
    seconds: dict[Any, float] = {}
    while interrupts.raised < wanted and not run.wrong:
        i, call, new = draw.randrange(2), draw.choice([*WRITE, *READ]), draw.random() < 0.5
        model = copy.deepcopy(run.models[i]) if new else known[i]
        model.zero_grad()
        before = [*objects(model), *objects(run.models[i])]
        got: list[Tensor] = []
        limit = seconds.get((i, call, new), 0.1)
        ended = interrupts.call(lambda: got.extend(call(model)), draw.uniform(1e-5, limit))  # noqa: B023
        # As long as about every second call is over before.
        seconds[i, call, new] = min(1.0, limit * (0.9 if ended else 1.1))
        where = f"{call.__name__} of model {i}, {'new' if new else 'known'}, "
        where += f"interrupted at {interrupts.place}" if ended else "not interrupted"
        if [*objects(model), *objects(run.models[i])] != before:
            run.wrong.append(f"{where}: the model is another")
        if surroundings() != around:
            run.wrong.append(f"{where}: {surroundings()[:6]} for {around[:6]}")
        if call in WRITE and grads(model):
            run.check(i, call, grads(model), where)  # all of it, or none
        elif not ended:
            run.check(i, call, got, where)


def told_but_interrupts(told: Callable[[Any], object]) -> Callable[[Any], None]:
    """What is called for errors that Python cannot raise, without those of Ctrl-C.

    In what runs as an object dies, or as garbage is collected, Python swallows it and goes on.
    """

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            told(unraisable)

    return hook


@quiet
@pytest.mark.filterwarnings("ignore:.*_at_fork:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("wanted", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_nothing_is_left_behind(wanted: int, force: Force, monkeypatch: pytest.MonkeyPatch) -> None:
    force(all_threads=False)
    monkeypatch.setattr(sys, "unraisablehook", told_but_interrupts(sys.unraisablehook))
    fastmaml.set_num_threads(3)
    run, interrupts = Run(), Interrupts()
    shared = [objects(model) for model in run.models]
    threads = [Thread(target=run.work, args=(i,)) for i in range(THREADS - 1)]
    threads.append(Thread(target=run.load))
    with handling(interrupts):
        for thread in threads:
            thread.start()
        try:
            interrupted_calls(run, interrupts, wanted)
        finally:
            run.stop.set()
            for thread in threads:
                thread.join()
    assert run.wrong == []
    assert min(run.calls) > 0
    assert [objects(model) for model in run.models] == shared
