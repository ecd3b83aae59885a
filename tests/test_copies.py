"""Forwards that run with other parameters: no module is touched, and none is gone around."""

from __future__ import annotations

import sys
import threading
import weakref
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from forced import Thread
from tolerances import assert_close
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastmaml
from fastmaml.definition.copies import ModelCopy

DATA = torch.randn(3, 6, 4, dtype=torch.float64), torch.arange(6).remainder(3).repeat(3, 1)
SETTINGS: dict[str, Any] = {"inner_lr": 0.3, "inner_steps": 2, "backend": "reference"}


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def grads(model: nn.Module, **settings: Any) -> dict[str, Tensor | None]:
    model.zero_grad()
    fastmaml.meta_step(model, DATA, DATA, **(SETTINGS | settings))
    return {name: p.grad for name, p in model.named_parameters()}


class Holder(nn.Module):
    """A layer that finds the layers of `net` in its own way."""

    def __init__(self, find: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.net = net()
        self.find = find(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.find(x)


class Pair(NamedTuple):
    weight: Tensor
    bias: Tensor


def in_list(m: Any) -> Callable[[Tensor], Tensor]:
    m.layers = [m.net[0], [m.net[2]]]
    return partial(lambda me, x: me.layers[1][0](me.layers[0](x).tanh()), m)


def in_closure(m: Any) -> Callable[[Tensor], Tensor]:
    layers = m.net  # minGPT keeps its layers so

    def through(x: Tensor) -> Tensor:
        return layers(x)  # type: ignore[no-any-return]

    return lambda x: through(x)


def in_method(m: Any) -> Callable[[Tensor], Tensor]:
    return m.net.forward  # type: ignore[no-any-return]


def in_tuple(m: Any) -> Callable[[Tensor], Tensor]:
    m.first = Pair(m.net[0].weight, m.net[0].bias)
    m.second = {"layer": (m.net[2].weight, m.net[2].bias)}
    return partial(lambda me, x: F.linear(F.linear(x, *me.first).tanh(), *me.second["layer"]), m)


def in_record(m: Any) -> Callable[[Tensor], Tensor]:
    m.parts = Namespace(first=m.net[0], second=[m.net[2]])
    return partial(lambda me, x: me.parts.second[0](me.parts.first(x).tanh()), m)


def in_reference(m: Any) -> Callable[[Tensor], Tensor]:
    m.there = weakref.ref(m.net)
    return partial(lambda me, x: me.there()(x), m)


def in_captured_parameter(m: Any) -> Callable[[Tensor], Tensor]:
    weight, bias = m.net[0].weight, m.net[0].bias
    last = m.net[2]
    return lambda x: last(F.linear(x, weight, bias).tanh())


WAYS = [
    in_list,
    in_closure,
    in_method,
    in_tuple,
    in_record,
    in_reference,
    in_captured_parameter,
]


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_found_wherever_a_module_keeps_them(way: Any) -> None:
    model = Holder(way)
    expected = grads(net())
    for name, grad in grads(model).items():
        assert grad is not None
        assert_close(grad, expected[name.removeprefix("net.")], "meta_f64")


def test_a_forward_that_gets_at_the_parameters_otherwise_is_refused() -> None:
    layers = net()
    where = {"net": layers}

    class Escapes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = layers

        def forward(self, x: Tensor) -> Tensor:
            return sys.modules["__main__"].fastmaml_test_place["net"](x)  # type: ignore[no-any-return]

    sys.modules["__main__"].fastmaml_test_place = where  # type: ignore[attr-defined]
    try:
        with pytest.raises(fastmaml.SettingError, match=r"got `net\.0\.weight` from elsewhere"):
            grads(Escapes())
    finally:
        del sys.modules["__main__"].fastmaml_test_place  # type: ignore[attr-defined]
    assert all(p.grad is None for p in layers.parameters())


# --- the module stays as it is --------------------------------------------------------------------


class Twice(nn.Module):
    """A layer under two names, as learn2learn's OmniglotCNN has it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.features = nn.Sequential(nn.Flatten(), self.base)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))  # type: ignore[no-any-return]


class Remembers(nn.Module):
    """Keeps an activation, counts its calls here and there, and appends to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen, self.calls = net(), None, 0
        self.state, self.log = Namespace(calls=0), [0]
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.state.calls += 1
        self.log.append(self.calls)
        self.total += 1
        self.seen = self.net(x)
        return self.seen


class FrozenStatistics(nn.Module):
    """Running statistics as frozen parameters, as in dragen1860's MAML."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.statistics = nn.ParameterList(
            [nn.Parameter(value, requires_grad=False) for value in (torch.zeros(8), torch.ones(8))]
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.statistics
        return self.last(F.batch_norm(self.first(x), mean, var, training=True))  # type: ignore[no-any-return]


class TiedPlain(nn.Module):
    """A plain tensor that the forward writes, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.mean = torch.zeros(4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        self.mean += x.detach().mean(0)
        return self.last(self.second(self.first(x).tanh()))  # type: ignore[no-any-return]


def state(model: nn.Module) -> Iterator[Any]:
    """All that a module's user could see of it."""
    for module in model.modules():
        for name, value in vars(module).items():
            yield name, id(value)
            if isinstance(value, (dict, list)):
                yield [id(item) for item in (value.values() if isinstance(value, dict) else value)]
            if isinstance(value, Namespace):
                yield dict(vars(value))
    for tensor in (*model.parameters(), *model.buffers()):
        yield tensor.detach().clone().tolist()


CALLS: dict[str, Callable[[nn.Module], Any]] = {
    "fused or not": lambda m: fastmaml.meta_step(m, DATA, DATA),
    "reference": lambda m: fastmaml.meta_step(m, DATA, DATA, backend="reference"),
    "definition": lambda m: fastmaml.reference.meta_step(m, DATA, DATA),
    "meta_loss": lambda m: fastmaml.reference.meta_loss(m, DATA, DATA).backward(),
    "predict": lambda m: fastmaml.adapt(m, DATA).predict(DATA[0]),
    "adapt": lambda m: fastmaml.adapt(m, DATA, backend="reference"),
    "verify": lambda m: fastmaml.verify(m, DATA, DATA),
    "evaluate": lambda m: fastmaml.evaluate(m, [(DATA, DATA)], inner_steps=2, backend="reference"),
    "twice": lambda m: [fastmaml.meta_step(m, DATA, DATA, backend="reference") for _ in range(2)],
}


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [Twice, Remembers, FrozenStatistics, TiedPlain])
def test_no_call_changes_a_module(kind: type[nn.Module], call: str) -> None:
    model = kind().double()
    if isinstance(model, TiedPlain):
        plain = model.mean.clone()
    before = list(state(model))
    CALLS[call](model)
    assert list(state(model)) == before
    if isinstance(model, TiedPlain):
        assert torch.equal(model.mean, plain)


def test_each_pass_finds_the_buffers_as_they_were() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.net(x) * self.calls  # type: ignore[no-any-return]

    expected, got = grads(net()), grads(Counts())
    for name, grad in expected.items():
        assert_close(got[f"net.{name}"], grad, "meta_f64")


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [net(), Twice().double()], ids=["net", "twice"])
def test_threads_share_a_model(model: nn.Module) -> None:
    """`predict`, the reference and the model itself, all at once."""
    tasks = fastmaml.adapt(model, DATA)
    calls: list[Callable[[], Tensor]] = [
        lambda: tasks.predict(DATA[0]),
        lambda: model(DATA[0][0]).detach(),
        lambda: fastmaml.adapt(model, DATA, backend="reference").predict(DATA[0]),
    ]
    expected = [call() for call in calls]
    wrong: list[int] = []

    def work(first: int) -> None:
        for i in range(first, first + 30):
            at = i % len(calls)
            if not torch.equal(calls[at](), expected[at]):
                wrong.append(at)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


# --- forwards that run again in backward ----------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True])
def test_activation_checkpointing(first_order: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.net, x, use_reentrant=False)  # type: ignore[no-any-return]

    expected = grads(net(), first_order=first_order)
    got = grads(Checkpointed(), first_order=first_order)
    for name, grad in expected.items():
        assert_close(got[f"net.{name}"], grad, "meta_f64")


class _Scaled(torch.autograd.Function):
    """x w, with ten times the derivative of w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return bar @ weight, 10 * bar.T @ x


def test_functions_with_a_backward_of_their_own() -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((3, 4), 0.1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return _Scaled.apply(x, self.weight)  # type: ignore[no-any-return]

    model = Custom()
    result = fastmaml.meta_step(model, DATA, DATA, inner_lr=0.3, backend="reference")
    expected, losses = torch.zeros_like(model.weight), []
    for x, y in zip(*DATA, strict=True):
        w = model.weight.detach().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(_Scaled.apply(x, w), y), w, create_graph=True)
        loss = F.cross_entropy(_Scaled.apply(x, w - 0.3 * g), y)
        expected += torch.autograd.grad(loss, w)[0] / 3
        losses.append(loss.detach())
    assert_close(result.task_losses, torch.stack(losses), "meta_f64")
    assert_close(model.weight.grad, expected, "meta_f64")


# --- the copy itself ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")
def test_scripted_layers() -> None:
    model = net()
    expected = grads(net())
    model[0] = torch.jit.script(model[0])
    for name, grad in grads(model).items():
        assert_close(grad, expected[name], "meta_f64")


def test_what_is_long_or_foreign_is_shared() -> None:
    model = net()
    model.data = [0] * 20_000
    model.lock = threading.Lock()
    twin = ModelCopy(model).module
    assert twin is not model
    assert twin.data is model.data
    assert twin.lock is model.lock
    assert type(twin[0]) is nn.Linear
    assert twin[0].weight is model[0].weight
    assert twin._parameters is not model._parameters
