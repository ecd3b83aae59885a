"""Ctrl-C ends a call at once, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forced import Thread
from torch import Tensor, nn

import fastmaml
from fastmaml.engine.binding import CompiledPlan
from fastmaml.tracing.trace import trace

RUN, PLANNING = CompiledPlan._call.__code__, CompiledPlan.__init__.__code__
TIMES = 3
_Call = Callable[[nn.Module, Any], Any]


class Alarm:
    """A clock that raises once it has rung some times within one piece of the engine's work.

    Python would ring it once when that is over. So this tells that signals are handled in between,
    and what is raised did not wait for the end.
    """

    def __init__(self, where: CodeType, error: type[BaseException] | None = None) -> None:
        self.where, self.error, self.rang = where, error, 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is self.where:
            self.rang += 1
            if self.rang == TIMES and self.error is not None:
                raise self.error


@pytest.fixture
def rings() -> Iterator[Callable[[Alarm], None]]:
    """Sets an alarm, which goes off every 10 ms."""
    before = signal.getsignal(signal.SIGALRM)

    def start(alarm: Alarm) -> None:
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(24, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 3))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def data(tasks: int) -> Any:
    return torch.randn(tasks, 20, 24), torch.randint(3, (tasks, 20))


LONG, SHORT = data(1500), data(5)
HOW: dict[str, Any] = {"inner_lr": 0.01, "inner_steps": 40}


def meta_step(model: nn.Module, pair: Any) -> list[Tensor]:
    fastmaml.meta_step(model, pair, pair, backend="fused", **HOW)
    return [p.grad for p in model.parameters() if p.grad is not None]


def meta_loss(model: nn.Module, pair: Any) -> list[Tensor]:
    return [fastmaml.meta_loss(model, pair, pair, backend="fused", **HOW)]


def adapt(model: nn.Module, pair: Any) -> list[Tensor]:
    return list(fastmaml.adapt(model, pair, backend="fused", **HOW).parameters.values())


def evaluate(model: nn.Module, pair: Any) -> Any:
    return [fastmaml.evaluate(model, [(pair, pair)], backend="fused", **HOW).loss]


def verify(model: nn.Module, pair: Any) -> Any:
    return [fastmaml.verify(model, pair, pair, backend="fused", **HOW).ok]


CALLS: list[_Call] = [meta_step, meta_loss, adapt, evaluate, verify]


def state(model: nn.Module) -> list[Any]:
    """All that a call could have changed: objects, and the bits of tensors."""
    tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
    held = [dict(vars(module)) for module in model.modules()]
    bits = [t.detach().clone() for t in tensors if t is not None]
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return [*tensors, *held, *bits, *modes, torch.get_rng_state()]


def same(now: list[Any], then: list[Any]) -> bool:
    return len(now) == len(then) and all(
        a is b or (torch.equal(a, b) if isinstance(a, Tensor) else a == b)
        for a, b in zip(now, then, strict=True)
    )


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_ends_at_once(call: _Call, threads: int, rings: Callable[[Alarm], None]) -> None:
    fastmaml.set_num_threads(threads)
    model, other = net(), net()
    other.load_state_dict(model.state_dict())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert b.grad is not None
        a.grad = b.grad.clone()
    expected = [t for t in call(other, SHORT) if call is not verify]
    call(model, SHORT) if call is not meta_step else adapt(model, SHORT)
    before = state(model)
    rings(Alarm(RUN, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        call(model, LONG)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert same(state(model), before)
    if call is not verify:
        assert same(call(model, SHORT), expected)


def test_planning_ends_at_once(rings: Callable[[Alarm], None]) -> None:
    model = net()
    before = state(model)
    rings(Alarm(PLANNING, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fastmaml.workspace_bytes(model, SHORT, SHORT, inner_steps=10_000)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert same(state(model), before)
    assert fastmaml.workspace_bytes(model, SHORT, SHORT) > 0


def test_handlers_that_raise_nothing_run_and_change_nothing(
    rings: Callable[[Alarm], None],
) -> None:
    model = net()
    pair = LONG[0][:400], LONG[1][:400]
    expected = adapt(model, pair)
    alarm = Alarm(RUN)
    rings(alarm)
    while alarm.rang < TIMES:
        assert same(adapt(model, pair), expected)


def test_errors_of_handlers_come_out_of_the_call(rings: Callable[[Alarm], None]) -> None:
    rings(Alarm(RUN, ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        adapt(net(), LONG)


def test_ctrl_c_ends_the_main_threads_call_and_no_other() -> None:
    """A call of another thread, under way at the same time, gives its bits."""
    model, other = net(), net()
    pair = LONG[0][:200], LONG[1][:200]
    expected = adapt(other, pair)
    got: list[list[Tensor]] = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        worker = Thread(target=lambda: got.extend(adapt(other, pair) for _ in range(3)))
        worker.start()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            adapt(model, pair)
    worker.join()
    assert len(got) == 3
    assert all(same(one, expected) for one in got)


# --- every place where Python can be interrupted --------------------------------------------------


class Trip:
    """Raises KeyboardInterrupt where Python may, for the n-th time, in files of some names.

    That is as a function begins, and after a call of a C function.
    """

    def __init__(self, n: int, *files: str) -> None:
        self.left, self.files, self.where = n, files, ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        looks = event in ("call", "c_return")
        if looks and frame.f_code.co_filename.endswith(self.files):
            self.left -= 1
            if self.left < 0:
                sys.setprofile(None)
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}, {event}"
                raise KeyboardInterrupt

    def trips(self, run: Callable[[], object]) -> bool:
        """Whether there were so many, in what `run` calls."""
        try:
            sys.setprofile(self)
            run()
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(None)
        return False


def around() -> list[Any]:
    """What is set for the thread and the process."""
    cuda = torch.backends.cuda
    return [
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        torch._C._len_torch_function_stack(),
        torch._C._are_functorch_transforms_active(),
        *(cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()),
    ]


def check_everywhere(run: Callable[[], object], *files: str) -> None:
    before, n = around(), 0
    while True:
        trip = Trip(n, *files)
        tripped = trip.trips(run)
        assert around() == before, trip.where
        if not tripped:
            break
        n += 1 + n // 15
    assert n > 10


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x).unflatten(1, (2, 3)).unsqueeze(1)
        return F.scaled_dot_product_attention(h, h, h).sum((1, 2))


class Norms(nn.Module):
    """What sees torch's calls has something to do in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bias = nn.Linear(4, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        h = F.layer_norm(self.linear(x), (3,), None, self.bias)
        return h * torch.erf(h.sum())


def refused(model: nn.Module) -> None:
    with pytest.raises(fastmaml.UnsupportedModelError):
        trace(model, (4,))


SETTERS = ("contextlib.py", "modes.py", "overrides.py", "vmap.py")


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_modes_are_given_back_wherever_a_call_is_left(mode: Any) -> None:
    model, x = Norms(), torch.randn(2, 4, 4)
    pair = x, torch.randint(3, (2, 4))
    calls = (
        lambda: fastmaml.meta_step(model, pair, pair, backend="reference"),
        lambda: refused(model),
        lambda: fastmaml.adapt(model, pair, backend="reference").predict(x),
        lambda: fastmaml.describe(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), pair, pair),
    )
    for call in calls:
        with mode():
            call()
            check_everywhere(call, *SETTERS)


def test_kernels_of_attention_are_given_back_wherever_a_call_is_left() -> None:
    model = Attends()
    pair = torch.randn(2, 4, 4), torch.randint(3, (2, 4))
    files = ("modes.py", "derivatives.py")
    check_everywhere(lambda: fastmaml.reference.meta_step(model, pair, pair), *files)
