"""Other people's models and habits: gradients where `backward()` puts them, and advice."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from trusted import DATA, X, Y, grads, net, quiet

import fastmaml
from fastmaml.calls.wrappers import unwrap

# --- gradients go where backward() puts them ------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_hooks_of_parameters_run(backend: Any, held: bool) -> None:
    model, expected = net(), grads(net(), backend=backend)[1]
    called: list[str] = []

    def double(grad: Tensor) -> Tensor:
        called.append("hook")
        return 2 * grad

    model[0].weight.register_hook(double)
    model[2].bias.register_post_accumulate_grad_hook(lambda p: called.append("post"))
    if held:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    fastmaml.meta_step(model, DATA, DATA, backend=backend)
    assert sorted(called) == ["hook", "post"]
    for i, (parameter, grad) in enumerate(zip(model.parameters(), expected, strict=True)):
        total = (2 if i == 0 else 1) * grad + held
        assert_close(parameter.grad, total, "meta_f64")


def test_an_optimizer_in_a_hook() -> None:
    """As torch's own recipe for steps during backward has it."""
    model, expected = net(), net()
    for parameter in model.parameters():
        optimizer = torch.optim.SGD([parameter], 0.1)

        def step(_: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(step)
    fastmaml.meta_step(model, DATA, DATA)
    fastmaml.meta_step(expected, DATA, DATA)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert one.grad is None
        assert_close(one, other - 0.1 * other.grad, "meta_f64")


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits * self.t, y)


class Context(nn.Module):
    """A leaf that is no parameter, as CAVIA's context is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.context = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.context)  # type: ignore[no-any-return]


@quiet
@pytest.mark.parametrize("times", [1, 3])  # vmap runs from the second call on
@pytest.mark.parametrize("call", ["meta_step", "meta_loss"])
@pytest.mark.parametrize("kind", ["loss", "model"])
def test_other_leaves_get_their_gradient(kind: str, call: str, times: int) -> None:
    loss: Any = Temperature() if kind == "loss" else "cross_entropy"
    model = net() if kind == "loss" else Context()
    leaf = loss.t if kind == "loss" else model.context
    fastmaml.reference.meta_loss(model, DATA, DATA, loss=loss).backward()
    expected, leaf.grad = leaf.grad, None
    for _ in range(times):
        leaf.grad = None
        if call == "meta_step":
            fastmaml.meta_step(model, DATA, DATA, loss=loss)
        else:
            fastmaml.meta_loss(model, DATA, DATA, loss=loss).backward()
    assert_close(leaf.grad, expected, "meta_f64")


# --- wrappers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrappers_run_the_module_inside(wrap: Any) -> None:
    model = net()
    expected = grads(net())[1]
    wrapped = wrap(model)
    assert unwrap(wrapped) is model
    assert fastmaml.meta_step(wrapped, DATA, DATA, backend="fused").backend == "fused"
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, grad)
    assert fastmaml.adapt(wrapped, DATA).predict(X).shape == (3, 6, 3)
    assert fastmaml.verify(wrapped, DATA, DATA).ok


# --- operations without a second derivative -------------------------------------------------------


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x.unsqueeze(1)).mean(1))  # type: ignore[no-any-return]


@quiet
def test_attention() -> None:
    model = Attends().double()
    before = torch.backends.cuda.flash_sdp_enabled()
    ours, got = grads(model, inner_lr=0.1)
    assert torch.backends.cuda.flash_sdp_enabled() == before
    with sdpa_kernel(SDPBackend.MATH):
        truth, expected = grads(model, fastmaml.reference.meta_step, inner_lr=0.1)
    assert_close(ours.task_losses, truth.task_losses, "meta_f64")
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, "meta_f64")


@quiet
def test_advice_where_torch_has_no_second_derivative() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Hardsigmoid()).double()
    with pytest.raises(fastmaml.UnsupportedModelError, match=r"of `hardsigmoid`.*first_order=True"):
        fastmaml.meta_step(model, DATA, DATA)
    assert all(p.grad is None for p in model.parameters())
    fastmaml.meta_step(model, DATA, DATA, first_order=True)


@pytest.mark.parametrize("kind", ["layer_norm", "group_norm", "batch_norm"])
@pytest.mark.parametrize("first", [False, True])
def test_norms_with_a_bias_alone(kind: str, first: bool) -> None:
    """Of these torch 2.13 has no second derivative, or on the input a wrong one."""

    class Biased(nn.Module):
        def __init__(self, sums: bool) -> None:
            super().__init__()
            layers = net()
            width = 4 if first else 6
            self.a, self.b, self.sums = layers[0], layers[2], sums
            self.bias = nn.Parameter(torch.linspace(-1, 1, width, dtype=torch.float64))

        def norm(self, x: Tensor) -> Tensor:
            bias = None if self.sums else self.bias
            if kind == "layer_norm":
                y = F.layer_norm(x, x.shape[1:], None, bias)
            elif kind == "group_norm":
                y = F.group_norm(x, 2, None, bias)
            else:
                y = F.batch_norm(x, None, None, None, bias, training=True)
            return y + self.bias if self.sums else y

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x) if first else x
            h = self.a(x)
            return self.b(torch.tanh(h if first else self.norm(h)))  # type: ignore[no-any-return]

    how: dict[str, Any] = {"inner_lr": 0.3, "inner_steps": 2}
    _, expected = grads(Biased(True), fastmaml.reference.meta_step, **how)
    for backend in ("fused", "reference"):
        for _ in range(2):
            _, got = grads(Biased(False), backend=backend, **how)
        # As one vector: the gradient of a bias before batch norm is zero but for rounding.
        assert_close(
            *(torch.cat([g.flatten() for g in side]) for side in (got, expected)), "meta_f64"
        )


# --- predict, verify, warnings --------------------------------------------------------------------


def test_one_row_through_batch_statistics() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    adapted = fastmaml.adapt(model, DATA)
    with pytest.raises(fastmaml.ShapeError, match=r"at least 2 rows.*got \[3, 1, 4\].*eval\(\)"):
        adapted.predict(X[:, :1])
    model.eval()
    assert fastmaml.adapt(model, DATA).predict(X[:, :1]).shape == (3, 1, 3)


@quiet
def test_predictions_of_models_that_derive() -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_()
            u = self.net(x)
            return torch.autograd.grad(u.square().sum(), x, create_graph=True)[0][:, :3]

    adapted = fastmaml.adapt(Slope(), DATA)
    predicted = adapted.predict(X)
    assert not predicted.requires_grad
    assert predicted.shape == (3, 6, 3)


@quiet
@pytest.mark.parametrize("kind", ["weights", "closure"])
def test_verify_takes_losses_that_hold_tensors(kind: str) -> None:
    weight = torch.tensor([1.0, 5.0, 0.2])
    loss: Any = nn.CrossEntropyLoss(weight=weight)
    if kind == "closure":
        loss = lambda logits, y: F.cross_entropy(logits, y, weight)  # noqa: E731
    data = X.float(), Y
    report = fastmaml.verify(net().float(), data, data, loss=loss)
    assert report.ok
    assert weight.dtype is torch.float32


def test_each_reason_is_told() -> None:
    def told(model: nn.Module, **how: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fastmaml.meta_step(model, DATA, DATA, **how)
        return [str(warning.message) for warning in caught]

    class Mine(nn.Sequential):
        """A class that has not warned yet."""

    prelu = Mine(nn.Linear(4, 3), nn.PReLU()).double()
    selu = Mine(nn.Linear(4, 3), nn.SELU()).double()
    assert "PReLU" in told(prelu)[0]
    assert told(prelu) == []
    assert "SELU" in told(selu)[0]
    assert "CrossEntropyLoss" in told(selu, loss=nn.CrossEntropyLoss(torch.ones(3).double()))[0]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm1d(5),
        lambda: nn.BatchNorm1d(5, affine=False, momentum=None),
        lambda: nn.Sequential(nn.Unflatten(1, (5, 1)), nn.BatchNorm1d(5), nn.Flatten()),
    ],
    ids=["batch norm", "without weights", "of channels"],
)
def test_statistics_that_no_data_has_made(norm: Any, backend: Any) -> None:
    def told(model: nn.Module) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fastmaml.evaluate(model, [(DATA, DATA)], inner_steps=1, backend=backend)
        found = [warning for warning in caught if "running statistics" in str(warning.message)]
        assert all(warning.filename == __file__ for warning in found)
        return [str(warning.message) for warning in found]

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), norm(), nn.Tanh(), nn.Linear(5, 3)).double()

    trained, fresh, used = model(), model().eval(), model()
    assert told(trained) == []  # by batch statistics
    used(torch.randn(7, 4, dtype=torch.float64))
    assert told(used.eval()) == []
    assert told(trained.eval()) == told(model().eval())
    text = told(fresh)
    assert len(text) == 1
    assert text[0].startswith("evaluate: norm `1")
    assert "call .train() on it" in text[0]
    assert told(fresh) == []
