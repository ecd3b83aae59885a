"""A network is compared with the forward that it stands for: other numbers never reach a caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from door import refused
from tolerances import assert_close
from torch import Tensor, nn
from trusted import DATA, X, Y, grads, net, quiet

import fastmaml
from fastmaml.engine import compared, plan
from fastmaml.engine.compared import agrees
from fastmaml.tracing.trace import Network, trace


class Asks(nn.Module):
    """Gives something else where a question of Python's is answered with yes."""

    def __init__(self, question: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.net, self.other, self.question = net(), nn.Linear(4, 3).double(), question

    def forward(self, x: Tensor) -> Tensor:
        if self.question(self):
            return self.other(x)  # type: ignore[no-any-return]
        return self.net(x)  # type: ignore[no-any-return]


@quiet
@pytest.mark.parametrize(
    "question",
    [
        lambda module: module._forward_hooks,  # a trace has some of its own
        lambda module: torch._C._len_torch_function_stack(),
    ],
    ids=["hooks", "modes"],
)
def test_what_only_a_trace_is_told(question: Callable[[nn.Module], Any]) -> None:
    refused(
        fastmaml.UnsupportedModelError,
        'meta_step: backend "fused" cannot take model (test_compared.Asks), whose forward gives '
        'other numbers than what was recorded of it; use backend="reference".',
        lambda: fastmaml.meta_step(Asks(question), DATA, DATA, backend="fused"),
    )


@quiet
def test_it_runs_on_the_reference() -> None:
    asks, plain = Asks(lambda module: module._forward_hooks), net()
    ours, got = grads(asks)
    truth, expected = grads(plain, fastmaml.reference.meta_step)
    assert ours.backend == "reference"
    assert_close(ours.task_losses, truth.task_losses, "meta_f64")
    for one, other in zip(got, expected, strict=False):
        assert_close(one, other, "meta_f64")


def _wrong(change: Callable[[Network], Network]) -> Callable[..., Network]:
    return lambda *args, **options: change(trace(*args, **options))


def _other_op(network: Network) -> Network:
    first, tanh, last = network.nodes
    return network._replace(nodes=(first, tanh._replace(op="relu"), last))


def _op_left_out(network: Network) -> Network:
    first, _, last = network.nodes
    return network._replace(nodes=(first, last._replace(inputs=(1,))), output=2)


@quiet
@pytest.mark.parametrize("change", [_other_op, _op_left_out])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("call", ["meta_step", "adapt", "evaluate", "describe"])
def test_a_wrong_network(
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Network], Network],
    dtype: torch.dtype,
    call: str,
) -> None:
    monkeypatch.setattr(plan, "trace", _wrong(change))
    model, data = net().to(dtype), (X.to(dtype), Y)
    if call == "meta_step":
        assert fastmaml.meta_step(model, data, data).backend == "reference"
        assert fastmaml.meta_step(model, data, data).backend == "reference", "and again"
    elif call == "adapt":
        assert fastmaml.adapt(model, data).backend == "reference"
    elif call == "evaluate":
        assert fastmaml.evaluate(model, [(data, data)], inner_steps=1).backend == "reference"
    else:
        assert "whose forward gives other numbers" in fastmaml.describe(model, data, data)


def _verdicts(monkeypatch: pytest.MonkeyPatch) -> list[bool | None]:
    """Every answer from now on."""
    verdicts: list[bool | None] = []

    def noted(*args: Any) -> bool | None:
        verdicts.append(agrees(*args))
        return verdicts[-1]

    monkeypatch.setattr(compared, "agrees", noted)
    return verdicts


def test_a_network_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts, model = _verdicts(monkeypatch), net()
    for steps in (0, 1, 2):
        fastmaml.meta_step(model, DATA, DATA, inner_steps=steps)
    fastmaml.adapt(model, DATA)
    assert verdicts == [True]
    model[0].weight.requires_grad_(False)
    fastmaml.meta_step(model, DATA, DATA)
    assert verdicts == [True, True]


def test_numbers_that_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts, model = _verdicts(monkeypatch), net()
    bad = X * float("nan"), Y
    assert fastmaml.meta_step(model, bad, bad).backend == "fused"
    assert fastmaml.meta_step(model, DATA, DATA).backend == "fused"
    assert verdicts == [None, True], "then data that prove something come"
    verdicts.clear()
    model = net()
    for _ in range(5):
        assert fastmaml.meta_step(model, bad, bad).backend == "fused"
    assert verdicts == [None] * 3, "it is not tried for ever"


def test_what_rounding_explains_is_no_difference() -> None:
    # Means take 24 bits of the inputs away, and torch's float32 norm nearly all that are left.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    far = 3e5 + torch.randn(3, 6, 4), Y
    with torch.no_grad():
        single = model(far[0][0])
        double = model.double()(far[0][0].double())
    assert (single - double).abs().max() > compared._ROUNDING[torch.float32] * double.abs().max()
    assert fastmaml.meta_step(model.float(), far, far).backend == "fused"


def test_nothing_can_be_told_of_noise() -> None:
    # Rows that are all the same: deep norms blow up what rounding left of their differences.
    layers = [m for _ in range(8) for m in (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())]
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(4, 3)).double()
    same = torch.randn(3, 1, 4, dtype=torch.float64).expand(3, 6, 4) / 3, Y
    assert fastmaml.meta_step(model, same, same, backend="fused").backend == "fused"


def _blank(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def _tiny(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return 1e-9 * torch.randn(shape, dtype=dtype)


class Centred(nn.Module):
    """Ends in 0 whatever comes, but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.LayerNorm(16))
        self.head = nn.Linear(16, 3)
        nn.init.ones_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))  # type: ignore[no-any-return]


def normed() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.zeros_(model[-1].bias)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draw", [_blank, _tiny, torch.randn])
@pytest.mark.parametrize("make", [normed, Centred])
def test_rounding_alone_is_no_difference(
    make: Callable[[], nn.Module], draw: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    """Blank tasks, inputs far below the biases, and outputs that are only rounding."""
    for seed in range(10):
        torch.manual_seed(seed)
        model, data = make().to(dtype), (draw((1, 5, 6), dtype=dtype), Y[:1, :5])
        assert fastmaml.meta_step(model, data, data, backend="fused").backend == "fused"


class Fails(nn.Module):
    """Fails where a trace does not: for want of memory, say."""

    short = True

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        if self._forward_hooks or not Fails.short:
            return self.net(x)  # type: ignore[no-any-return]
        raise MemoryError("no room for 1 TiB")


def test_a_forward_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Fails()
    with pytest.raises(fastmaml.UnsupportedModelError, match=r"fails \(no room for 1 TiB\)"):
        fastmaml.meta_step(model, DATA, DATA, backend="fused")
    monkeypatch.setattr(Fails, "short", False)
    assert fastmaml.meta_step(model, DATA, DATA, backend="fused").backend == "fused"


def test_data_that_a_module_holds_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    model.held = torch.zeros(7, 3)
    copied: list[torch.Size] = []
    clone = Tensor.clone

    def noted(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        copied.append(tensor.shape)
        return clone(tensor, *args, **options)

    monkeypatch.setattr(Tensor, "clone", noted)
    fastmaml.meta_step(model, DATA, DATA, backend="fused")
    assert copied
    assert torch.Size([7, 3]) not in copied


def test_the_forward_runs_on_copies() -> None:
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.ReLU(inplace=True), norm, nn.Linear(4, 3)).double()
    state = torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = X.clone()
    fastmaml.meta_step(model, (x, Y), (x, Y), backend="fused")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, X)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("knows", [False, True])
def test_the_rows_of_a_set_that_is_used(
    steps: int, knows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def noted(*args: Any) -> bool | None:
        rows.append(len(args[3]))
        return agrees(*args)

    monkeypatch.setattr(compared, "agrees", noted)
    norm = nn.BatchNorm1d(6)  # without inner steps the support set meets none, and may be one row
    last = [Rows()] if knows else []
    model = nn.Sequential(nn.Linear(4, 6), norm, nn.Linear(6, 3), *last).double()
    least = 1 if steps == 0 else 3
    support = X[:, :least], Y[:, :least]
    fastmaml.meta_step(model, support, DATA, inner_steps=steps, backend="fused")
    assert rows == [(6 if steps == 0 else 3) if knows else 2]


class Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1)
