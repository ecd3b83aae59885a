"""Other people's models and habits: the right numbers, or a sentence; never a crash."""

from __future__ import annotations

import collections
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from forced import Thread
from tolerances import assert_close
from torch import Tensor, nn
from trusted import DATA, X, Y, grads, net, quiet

import fastmaml
from fastmaml.modes import Mode, within


def check_against_definition(model: nn.Module, **how: Any) -> str:
    ours, got = grads(model, **how)
    truth, expected = grads(model, fastmaml.reference.meta_step, **how)
    assert_close(ours.task_losses, truth.task_losses, "meta_f64")
    assert [g is None for g in got] == [g is None for g in expected]
    for one, other in zip(got, expected, strict=True):
        if one is not None:
            assert_close(one, other, "meta_f64")
    return ours.backend  # type: ignore[no-any-return]


# --- contexts, functions and answers that a trace must see ----------------------------------------


class Calls(nn.Module):
    """`net` with something between its layers."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        layers = net()
        self.a, self.b, self.between = layers[0], layers[2], between
        self.register_buffer("slope", torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))  # type: ignore[no-any-return]


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Tensor:
        return -bar


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Tensor:
        return 3 * bar


def frozen(m: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.tanh(h)


def frozen_by_setting(m: Any, h: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    h = torch.tanh(h)
    torch.set_grad_enabled(True)
    return h


@torch.no_grad()
def frozen_function(h: Tensor) -> Tensor:
    return torch.relu(h)


def cast(m: Any, h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.tanh(h).add(h)


def tries(m: Any, h: Tensor) -> Tensor:
    try:
        h = F.normalize(h, dim=-1)
    except Exception:
        h = torch.relu(h)
    return h


def tries_everything(m: Any, h: Tensor) -> Tensor:
    try:
        return h * 2
    except:  # noqa: E722
        return h


def asks_for_a_method(m: Any, h: Tensor) -> Tensor:
    return torch.tanh(h) if hasattr(h, "softmax") else torch.relu(h)


def asks_for_the_class(m: Any, h: Tensor) -> Tensor:
    return torch.tanh(h) if type(h) is Tensor else torch.relu(h)


def asks_for_a_graph(m: Any, h: Tensor) -> Tensor:
    return torch.tanh(h) if h.requires_grad and not h.is_leaf else torch.relu(h)


def asks_for_the_device(m: Any, h: Tensor) -> Tensor:
    return torch.tanh(h) if h.device.type == "cpu" and not h.is_meta else torch.relu(h)


def asks_for_parameters(m: Any, h: Tensor) -> Tensor:
    return torch.tanh(h) if isinstance(m.a.weight, nn.Parameter) else torch.relu(h)


FUSED = [asks_for_the_class, asks_for_a_graph, asks_for_the_device, asks_for_parameters]
FUSED += [asks_for_a_method]
REFERENCE: list[Callable[[Any, Tensor], Tensor]] = [
    *(frozen, frozen_by_setting, cast, tries, tries_everything),
    lambda m, h: frozen_function(h),
    lambda m, h: Reverse.apply(h),  # type: ignore[no-any-return]
    lambda m, h: Same.apply(h),  # type: ignore[no-any-return]
    lambda m, h: F.leaky_relu(h, float(m.slope)),
    lambda m, h: torch.tanh(h) if h.detach().sum() > 0 else torch.relu(h),
    lambda m, h: torch.tanh(h) if float(m.slope) > 0 else torch.relu(h),
    lambda m, h: h.detach(),
    lambda m, h: torch.ops.aten.tanh(h),
]


@quiet
@pytest.mark.parametrize("between", [*FUSED, *REFERENCE])
def test_forwards_mean_what_they_mean_to_torch(between: Any) -> None:
    backend = check_against_definition(Calls(between), inner_lr=0.3, inner_steps=2)
    assert backend == ("fused" if between in FUSED else "reference")


@quiet
def test_a_call_under_autocast_runs_in_torch() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fastmaml.meta_step(net(), DATA, DATA).backend == "reference"
        with pytest.raises(fastmaml.UnsupportedModelError, match=r"a call under torch\.autocast"):
            fastmaml.meta_step(net(), DATA, DATA, backend="fused")


def test_a_weight_in_two_kinds_of_operations_is_refused() -> None:
    class Shares(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how, self.w, self.last = how, nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(F.linear(x, self.w))
            if self.how == "norm":
                h = F.layer_norm(h.unsqueeze(1) + h.unsqueeze(1), (4,), self.w[0])
            elif self.how == "bias":
                h = F.linear(h.unsqueeze(1), self.w).flatten(1)
            return self.last(h.flatten(1))  # type: ignore[no-any-return]

    check_against_definition(Shares("bias").double(), inner_lr=0.1)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 6) / 3)
            self.up, self.out = nn.Linear(6, 36), nn.Linear(36, 3)
            self.down = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            h = self.up(torch.tanh(F.linear(self.down(x), self.w)))
            return self.out(F.layer_norm(h.unflatten(1, (6, 6)), (6, 6), self.w).flatten(1))  # type: ignore[no-any-return]

    model = Twice().double()
    with pytest.raises(fastmaml.UnsupportedModelError, match="`w` in operations of several kinds"):
        fastmaml.meta_step(model, DATA, DATA, backend="fused")


# --- data -----------------------------------------------------------------------------------------

NO_MEMORY = {
    "masked": "from torch.masked import masked_tensor\n"
    "wrap = lambda t: masked_tensor(t, torch.ones_like(t, dtype=torch.bool))",
    "fake": "from torch._subclasses import FakeTensorMode\nwrap = FakeTensorMode().from_tensor",
    "wrapper": """
class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, t):
        return torch.Tensor._make_wrapper_subclass(cls, t.shape, dtype=t.dtype)
    def __init__(self, t):
        self.t = t
    @classmethod
    def __torch_dispatch__(cls, f, types, args=(), kwargs=None):
        return f(*[a.t if isinstance(a, Wrapper) else a for a in args], **(kwargs or {}))
wrap = Wrapper""",
}


@pytest.mark.parametrize("kind", NO_MEMORY)
def test_data_without_memory(kind: str) -> None:
    """In a process of its own, which must survive."""
    program = f"""
import warnings
warnings.simplefilter("ignore")
import torch, fastmaml
{NO_MEMORY[kind]}
x, y = torch.randn(2, 4, 4), torch.randint(3, (2, 4))
model = torch.nn.Linear(4, 3)
for data in ((wrap(x), y), (x, wrap(y))):
    for pairs in ((data, (x, y)), ((x, y), data)):
        for call in (fastmaml.meta_step, fastmaml.reference.meta_step, fastmaml.meta_loss):
            try:
                call(model, *pairs)
            except fastmaml.SettingError as error:
                assert "memory of its own" in str(error), error
            else:
                raise AssertionError("taken")
assert model.weight.grad is None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Plain(Tensor):
    """A subclass with memory, as torchvision's images are."""


@quiet
def test_subclasses_with_memory_are_taken() -> None:
    model = net()
    data = X.as_subclass(Plain), Y.as_subclass(Plain)
    result = fastmaml.meta_step(model, data, data)
    truth = fastmaml.meta_step(model, DATA, DATA)
    assert torch.equal(result.task_losses.as_subclass(Tensor), truth.task_losses)


def test_labels_that_another_thread_writes() -> None:
    model, x, y = nn.Linear(4, 3), torch.randn(200, 20, 4), torch.randint(3, (200, 20))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            y.fill_(10**9)
            y.fill_(0)

    writer = Thread(target=write)
    writer.start()
    try:
        for _ in range(60):
            with contextlib.suppress(fastmaml.SettingError):
                fastmaml.meta_step(model, (x, y), (x, y), backend="fused")
    finally:
        stop.set()
        writer.join()


def test_pairs_may_be_named() -> None:
    batch = collections.namedtuple("batch", "x y")(*DATA)
    model = net()
    result = fastmaml.meta_step(model, batch, batch)
    assert torch.equal(result.loss, fastmaml.meta_step(model, DATA, DATA).loss)
    with pytest.raises(fastmaml.ShapeError, match=r"got numpy arrays; call torch\.from_numpy"):
        fastmaml.meta_step(model, (X.numpy(), Y.numpy()), DATA)  # type: ignore[arg-type]


# --- what a process may be set to -----------------------------------------------------------------


def test_a_default_device_changes_nothing() -> None:
    model, data = nn.Linear(4, 3), (torch.randn(2, 5, 4), torch.randint(3, (2, 5)))
    wide = nn.Sequential(nn.Linear(4, 2000), nn.ReLU(), nn.Linear(2000, 3))
    expected = fastmaml.meta_step(wide, data, data).loss
    with torch.device("meta"):
        assert fastmaml.meta_step(model, data, data).backend == "fused"
        assert torch.equal(fastmaml.meta_step(wide, data, data).loss, expected)
        assert fastmaml.adapt(wide, data).predict(data[0]).shape == (2, 5, 3)
        assert fastmaml.evaluate(wide, [(data, data)], inner_steps=1).tasks == 2


def test_a_mode_that_an_interrupt_left_behind_does_nothing() -> None:
    """Torch takes a mode away while it looks at a call, by a generator, and puts it back."""

    class Left(Mode):
        def call(self, func: Any, args: Any, kwargs: Any) -> Any:
            raise AssertionError("at work")

    mode, depth = Left(), torch._C._len_torch_function_stack()

    def interrupted() -> None:
        taken = torch.overrides._pop_mode_temporarily()
        taken.__enter__()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        within(mode, interrupted)
    assert torch._C._len_torch_function_stack() == depth
    with mode:  # as if torch had not taken it away
        assert fastmaml.meta_step(net(), DATA, DATA).backend == "fused"


def test_weights_and_data_of_the_other_sign() -> None:
    model, x = net(), torch._neg_view(X.clone())
    assert x.is_neg()
    model[0].weight = nn.Parameter(torch._neg_view(model[0].weight.detach().clone()))
    assert model[0].weight.is_neg()
    result = fastmaml.meta_step(model, (x, Y), DATA, backend="fused")
    truth = fastmaml.reference.meta_step(model, (x, Y), DATA)
    assert_close(result.task_losses, truth.task_losses, "meta_f64")


def test_small_images_and_ceil_mode_run_in_torch() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.MaxPool2d(3, ceil_mode=True), nn.Flatten(), nn.Linear(2, 3)
    )
    data = torch.randn(2, 4, 1, 2, 2), torch.randint(3, (2, 4))
    with pytest.warns(UserWarning, match="ceil_mode"):
        assert fastmaml.meta_step(model, data, data).backend == "reference"
