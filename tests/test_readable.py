"""Tensors that nobody can read, and models whose tensors were exchanged: what calls say and do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor, nn

import fastmaml
from fastmaml import SettingError, ShapeError
from fastmaml.readable import obstacle, readable

CLASSES = torch.arange(4).remainder(3).repeat(2, 1)


def mlp(width: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()


def data(*row: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, *(row or (4,)), dtype=torch.float64), CLASSES


def shrunk(tensor: Tensor, share: int) -> Tensor:
    """A tensor whose storage has lost memory: all of it, or all but a share."""
    storage = tensor.untyped_storage()
    storage.resize_(storage.nbytes() // share if share else 0)
    return tensor


# --- what can be read -----------------------------------------------------------------------------


def test_views_are_readable() -> None:
    x = torch.randn(4, 6)
    for tensor in (x, x.t(), x[1:, ::2], x[:1].expand(4, 6), x[:0], torch._neg_view(x), x.half()):
        assert readable(tensor)
        assert obstacle(tensor) is None


@pytest.mark.parametrize("share", [0, 2])
@pytest.mark.parametrize("what", ["x", "y", "weight", "grad", "frozen"])
@pytest.mark.parametrize("call", [fastmaml.meta_step, fastmaml.reference.meta_step])
def test_storages_that_lost_memory(call: Any, what: str, share: int) -> None:
    model, pair, other = mlp(), data(), data()
    call(model, other, other)
    model.zero_grad()
    if what == "frozen":
        model[0].requires_grad_(False)
    if what == "grad":
        model[2].weight.grad = torch.zeros(3, 5, dtype=torch.float64)
    tensors = {"x": pair[0], "y": pair[1].clone(), "weight": model[0].weight.data}
    tensors |= {"grad": model[2].weight.grad, "frozen": model[0].bias.data}
    pair = tensors["x"], tensors["y"]
    shrunk(tensors[what], share)
    advice = "it was freed or made smaller after the tensor was"
    if what == "grad":
        advice = "set it to None, as optimizer.zero_grad"
    with pytest.raises(SettingError, match=f"must be a tensor with memory .*; {advice}"):
        call(model, pair, other)
    assert model[2].bias.grad is None


def test_lazy_parameters_have_no_shape() -> None:
    for model in (nn.LazyLinear(3), nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 3))):
        with pytest.raises(
            SettingError, match=r"got an UninitializedParameter; run the model once"
        ):
            fastmaml.meta_step(model, data(), data())


def test_calls_within_transforms_and_modes_are_refused() -> None:
    model, pair = mlp(), data()
    calls: list[Callable[[], object]] = [
        lambda: torch.vmap(lambda x: fastmaml.meta_step(model, (x, CLASSES), pair).loss)(
            pair[0][None]
        ),
        lambda: torch.func.grad(lambda a: a * fastmaml.meta_loss(model, pair, pair))(
            torch.ones(())
        ),
    ]
    for call in calls:
        with pytest.raises(SettingError, match=r"outside of transforms of torch\.func"):
            call()
    from torch._subclasses import FakeTensorMode

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(SettingError, match="a mode that makes a FakeTensor; leave the mode"),
    ):
        fastmaml.meta_step(model, pair, pair)
    assert fastmaml.meta_step(model, pair, pair).backend == "fused"


# --- tensors that were exchanged ------------------------------------------------------------------


def narrow_mlp(model: Any) -> None:
    model[0].weight.data = model[0].weight.data[:4].clone()
    model[0].bias.data = model[0].bias.data[:4].clone()
    model[2].weight.data = model[2].weight.data[:, :4].clone()


def narrow_conv(model: Any) -> None:
    model[0].weight.data = model[0].weight.data[:2].clone()
    model[0].bias.data = model[0].bias.data[:2].clone()
    model[3].weight.data = model[3].weight.data[:, :8].clone()


def narrow_norm(model: Any) -> None:
    narrow_mlp(model)
    model[1].weight.data = model[1].weight.data[:4].clone()
    model[1].bias.data = model[1].bias.data[:4].clone()


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
@pytest.mark.parametrize(
    ("model", "row", "narrow"),
    [
        (mlp(), (4,), narrow_mlp),
        (
            nn.Sequential(nn.Conv2d(1, 3, 1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double(),
            (1, 2, 2),
            narrow_conv,
        ),
        (
            nn.Sequential(nn.Linear(4, 5), nn.GroupNorm(1, 5), nn.Linear(5, 3)).double(),
            (4,),
            narrow_norm,
        ),
    ],
    ids=["linear", "conv", "norm"],
)
def test_weights_of_another_shape_are_traced_anew(
    model: Any, row: tuple[int, ...], narrow: Callable[[Any], None]
) -> None:
    pair = data(*row)
    fastmaml.meta_step(model, pair, pair)
    if narrow is narrow_norm:
        model[1].num_channels = 5
    model.zero_grad()
    narrow(model)
    if narrow is narrow_norm:
        model[1].num_channels = 4
    result = fastmaml.meta_step(model, pair, pair)
    ours = [p.grad for p in model.parameters()]
    model.zero_grad()
    truth = fastmaml.reference.meta_step(model, pair, pair)
    assert_close(result.task_losses, truth.task_losses, "meta_f64")
    for grad, parameter in zip(ours, model.parameters(), strict=True):
        assert_close(grad, parameter.grad, "meta_f64")


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
@pytest.mark.parametrize("kind", [Tensor, nn.Parameter])
def test_weights_that_functional_call_puts(kind: type) -> None:
    class Steps(nn.Module):
        """Makes a meta-step in its forward, as functional_call wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, pair: Any) -> Tensor:
            return fastmaml.meta_loss(self.net, pair, pair)

    steps, pair = Steps(), data()
    plain = steps(pair)
    other: dict[str, Tensor] = {}
    for name, p in steps.named_parameters():
        twice = p.detach() * 2
        other[name] = nn.Parameter(twice) if kind is nn.Parameter else twice.requires_grad_()
    loss = torch.func.functional_call(steps, other, (pair,))
    truth = mlp()
    truth.load_state_dict({name.removeprefix("net."): p.detach() for name, p in other.items()})
    expected = fastmaml.meta_loss(truth, pair, pair)
    assert_close(loss, expected, "meta_f64")
    loss.backward()
    expected.backward()  # type: ignore[no-untyped-call]
    for put, parameter in zip(other.values(), truth.parameters(), strict=True):
        assert_close(put.grad, parameter.grad, "meta_f64")  # type: ignore[arg-type]
    assert torch.equal(steps(pair), plain)


# --- what came, and what to do --------------------------------------------------------------------


def test_a_query_must_be_given() -> None:
    for call in (fastmaml.meta_step, fastmaml.reference.meta_step, fastmaml.verify):
        with pytest.raises(ShapeError, match=r"query must be a pair \(x, y\)"):
            call(mlp(), data(), None)  # type: ignore[operator]


def test_indices_as_inputs_are_told_apart() -> None:
    ids = torch.zeros(2, 4, 4, dtype=torch.int64)
    for x in (ids, ids.int(), ids.bool()):
        with pytest.raises(fastmaml.DtypeError, match="holds indices such as token ids, give the"):
            fastmaml.meta_step(mlp(), (x, CLASSES), data())


@pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")
@pytest.mark.parametrize(
    ("made", "came"),
    [
        (lambda y: (y, y), r"tuple of \(Tensor, Tensor\)"),
        (lambda y: {"logits": y}, r"dict of \(Tensor\)"),
        (lambda y: torch.distributions.Categorical(logits=y), "Categorical"),
        (lambda y: None, "NoneType"),
    ],
)
def test_outputs_that_are_no_tensor(made: Callable[[Tensor], Any], came: str) -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Any:
            return made(self.f(x))

    with pytest.raises(ShapeError, match=f"the model must return one tensor, got {came}; give"):
        fastmaml.meta_step(Returns(), data(), data())


@pytest.mark.parametrize("rate", [1e-22, 1e-40, 1e-44, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_learned_rates(dtype: torch.dtype, rate: float) -> None:
    if dtype is torch.float64:
        rate = rate**7  # as far below its smallest number
    found = []
    for step in (fastmaml.meta_step, fastmaml.reference.meta_step):
        model, (x, y) = mlp().to(dtype), data()
        learned = torch.tensor(rate, dtype=dtype, requires_grad=True)
        torch.manual_seed(1)
        x = torch.randn_like(x).to(dtype)
        step(model, (x, y), (x, y), inner_lr=learned, inner_steps=2)
        found.append(learned.grad)
    claim: Any = "meta_f64" if dtype is torch.float64 else "difference_f64"
    assert found[0] is not None
    assert found[1] is not None
    assert_close(found[0], found[1], claim)
