"""The promises of the public calls, on the fused engine: what is filled, left alone and refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import Q, S, T, classification, gradients, network, regression
from tolerances import assert_close
from torch import Tensor, nn

import fastmaml
from fastmaml import notices, reference
from fastmaml.calls.meta import query_losses


def refuses(kind: type[Exception], text: str, call: Callable[[], object]) -> None:
    """The call raises with this text, and names its parts in it."""
    with pytest.raises(kind, match=re.escape(text)):
        call()


def both(model: nn.Module, data: Any, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the fused engine and of the reference."""
    found = []
    for call, extra in ((fastmaml.meta_step, {"backend": "fused"}), (reference.meta_step, {})):
        model.zero_grad()
        call(model, *data, **options, **extra)
        found.append(gradients(model))
    model.zero_grad()
    return found[0], found[1]


def agree(model: nn.Module, data: Any, **options: Any) -> None:
    ours, theirs = both(model, data, **options)
    assert [g.shape for g in ours] == [g.shape for g in theirs]
    assert_close(torch.cat(ours), torch.cat(theirs), "meta_f64")


pytestmark = pytest.mark.usefixtures("float64")


def test_gradients_are_added() -> None:
    model, data = network(), classification()
    fastmaml.meta_step(model, *data)
    once = gradients(model)
    held = [p.grad for p in model.parameters()]
    fastmaml.meta_step(model, *data)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), held, strict=True))
    for twice, one in zip(gradients(model), once, strict=True):
        assert torch.equal(twice, one + one)


def test_result() -> None:
    model, data = network(), classification()
    result = fastmaml.meta_step(model, *data)
    expected = reference.meta_step(model, *data)
    assert result.backend == "fused"
    assert result.task_losses.shape == (T,)
    assert result.logits.shape == (T, Q, 3)
    assert_close(result.loss, expected.loss, "meta_f64")
    assert_close(result.logits, expected.logits, "meta_f64")
    assert result.accuracy is not None
    assert torch.equal(result.accuracy, expected.accuracy)
    assert not any(t.requires_grad for t in (result.loss, result.task_losses, result.logits))
    assert fastmaml.meta_step(nn.Linear(2, 1), *regression(), loss="mse").accuracy is None


def test_nothing_else_changes() -> None:
    model, data = network(), classification()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copies = [tensor.clone() for pair in data for tensor in pair]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fastmaml.meta_step(model, *data, inner_steps=2)
    query_losses(model, *data)
    fastmaml.adapt(model, data[0]).predict(data[1][0])
    fastmaml.describe(model, *data)
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for tensor, copy in zip([t for pair in data for t in pair], copies, strict=True):
        assert torch.equal(tensor, copy)


def test_meta_loss_is_differentiable_once() -> None:
    model, data = network(), classification()
    loss = fastmaml.meta_loss(model, *data, backend="fused")
    assert loss.shape == ()
    (3.0 * loss + sum((p**2).sum() for p in model.parameters())).backward()
    ours = gradients(model)
    theirs, _ = both(model, data)
    for a, b, p in zip(ours, theirs, model.parameters(), strict=True):
        assert_close(a, (3.0 * b + 2.0 * p.flatten()).detach(), "meta_f64")
    loss = fastmaml.meta_loss(model, *data)
    (grad,) = torch.autograd.grad(loss, [next(model.parameters())], create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        grad.sum().backward()


def test_meta_loss_without_grad_has_no_graph() -> None:
    model, data = network(), classification()
    with torch.no_grad():
        loss = fastmaml.meta_loss(model, *data)
    assert not loss.requires_grad
    assert_close(loss, fastmaml.meta_loss(model, *data), "meta_f64")
    assert all(p.grad is None for p in model.parameters())


def test_meta_loss_carries_the_rates_gradient() -> None:
    model, data = network(), classification()
    grads = []
    for call in (fastmaml.meta_loss, reference.meta_loss):
        alpha = torch.tensor(0.3, requires_grad=True)
        call(model, *data, inner_lr=alpha, inner_steps=2).backward()
        grads.append(alpha.grad)
    assert_close(*grads, "meta_f64")


def test_rates_that_were_computed_pass_their_gradient_on() -> None:
    model, data = network(), classification()
    grads = []
    for call in (fastmaml.meta_step, reference.meta_step):
        log_rate = torch.tensor(-1.0, requires_grad=True)
        call(model, *data, inner_lr=log_rate.exp())
        grads.append(log_rate.grad)
    assert_close(*grads, "meta_f64")


def test_adapt() -> None:
    model, (support, query) = network(), classification()
    ours = fastmaml.adapt(model, support, inner_steps=3, backend="fused")
    theirs = reference.adapt(model, support, inner_steps=3)
    assert ours.backend == "fused"
    assert list(ours.parameters) == list(theirs.parameters)
    for name, tensor in ours.parameters.items():
        assert_close(tensor, theirs.parameters[name], "meta_f64")
    assert_close(ours.predict(query[0]), theirs.predict(query[0]), "meta_f64")
    result = query_losses(model, support, query, inner_steps=3)
    assert_close(ours.predict(query[0]), result.logits, "meta_f64")


def test_adapt_keeps_unused_parameters() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model, data = Unused(), regression()
    tasks = fastmaml.adapt(model, data[0], loss="mse", backend="fused")
    assert torch.equal(tasks.parameters["unused"], torch.ones(T, 3))
    fastmaml.meta_step(model, *data, loss="mse")
    assert model.unused.grad is None


@pytest.mark.parametrize("steps", [0, 2])
def test_query_losses_leave_grad_alone(steps: int) -> None:
    model, data = network(), classification()
    ours = query_losses(model, *data, inner_steps=steps, backend="fused")
    theirs = query_losses(model, *data, inner_steps=steps, backend="reference")
    assert (ours.backend, theirs.backend) == ("fused", "reference")
    assert_close(ours.task_losses, theirs.task_losses, "meta_f64")
    assert all(p.grad is None for p in model.parameters())


def test_eval_mode_reads_running_statistics() -> None:
    model, data = network(), classification()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm1d)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    train, _ = both(model, data)
    agree(model.eval(), data)
    assert not torch.equal(train[0], both(model, data)[0][0])


def test_the_model_may_change_between_calls() -> None:
    """Every change is seen: mode, frozen and replaced parameters, layer settings, layers."""
    model, data = network(), classification()
    agree(model, data)
    agree(model.eval(), data)
    model.train()
    model[0].weight.requires_grad_(False)
    agree(model, data)
    model[0].weight.requires_grad_(True)
    model[3].weight = nn.Parameter(torch.randn(4, 4))
    agree(model, data)
    model[2] = nn.LeakyReLU(0.1)
    agree(model, data)
    model[2].negative_slope = 0.9
    agree(model, data)
    model[1].eps = 0.1
    agree(model, data)
    model.append(nn.Softplus())
    agree(model, data)
    model[0].weight.data = torch.randn(2, 4).t()  # other strides
    agree(model, data)
    model[1].register_buffer("running_mean", torch.ones(4))
    agree(model.eval(), data)


def test_float32_follows_the_model() -> None:
    model, data = network(), classification()
    fastmaml.meta_step(model, *data)
    model.zero_grad()
    single = tuple((x.float(), y) for x, y in data)
    fastmaml.meta_step(model.float(), *single)
    assert all(p.grad.dtype is torch.float32 for p in model.parameters())
    refuses(
        fastmaml.DtypeError,
        "meta_step: support x must be torch.float32 like the model's parameters, "
        "got torch.float64; call x.float().",
        lambda: fastmaml.meta_step(model, *data),
    )


def test_strides_do_not_matter() -> None:
    model, ((sx, sy), (qx, qy)) = network(), classification()
    expected, _ = both(model, ((sx, sy), (qx, qy)))
    odd = sx.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.stack([qx, qx], -1)[..., 0]
    labels = torch.stack([sy, sy], -1)[..., 1]
    assert not odd.is_contiguous()
    assert not wide.is_contiguous()
    ours, _ = both(model, ((odd, labels), (wide, qy)))
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a, b)
    one = sx[:1].expand(T, S, 2), sy[:1].expand(T, S)
    agree(model, (one, (qx, qy)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_data_are_reported(bad: float) -> None:
    model, ((sx, sy), query) = network(), classification()
    sx[1, 0, 0] = bad
    result = fastmaml.meta_step(model, (sx, sy), query, inner_steps=2, backend="fused")
    assert result.task_losses.isfinite().tolist() == [True, False, True]
    assert not result.loss.isfinite()
    assert not all(g.isfinite().all() for g in gradients(model))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Softmax(-1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(x))


def test_what_the_engine_cannot_take_runs_in_torch_with_one_warning() -> None:
    data = classification()
    with pytest.warns(UserWarning, match=r"Gated runs on the slower .* layer `gate`") as seen:
        result = fastmaml.meta_step(Gated(), *data)
    assert len(seen) == 1
    assert result.backend == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastmaml.meta_step(Gated(), *data).backend == "reference"
    refuses(
        fastmaml.UnsupportedModelError,
        'meta_step: backend "fused" cannot take layer `gate` (torch.nn.Softmax)',
        lambda: fastmaml.meta_step(Gated(), *data, backend="fused"),
    )
    assert fastmaml.describe(Gated(), *data).startswith("backend reference\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.append(nn.Dropout(0.5)), "torch.nn.Dropout"),
        (lambda m: m[0].register_forward_hook(lambda *_: None), "forward hooks"),
        (lambda m: m[0].register_forward_pre_hook(lambda *_: None), "forward hooks"),
    ],
    ids=["dropout", "hook", "pre-hook"],
)
def test_hooks_and_dropout_are_never_ignored(change: Any, reason: str) -> None:
    model, data = network(), classification()
    assert fastmaml.meta_step(model, *data).backend == "fused"
    change(model)
    refuses(
        fastmaml.UnsupportedModelError,
        reason,
        lambda: fastmaml.meta_step(model, *data, backend="fused"),
    )
    notices._SAID.pop(nn.Sequential, None)
    with pytest.warns(UserWarning, match=reason):
        assert fastmaml.meta_step(model, *data).backend == "reference"


def test_callable_losses_run_in_torch() -> None:
    def absolute(logits: Tensor, y: Tensor) -> Tensor:
        return (logits - y).abs().mean()

    model, data = nn.Linear(2, 1), regression()
    notices._SAID.pop(nn.Linear, None)
    with pytest.warns(UserWarning, match=r"because .* cannot take loss `absolute`"):
        assert fastmaml.meta_step(model, *data, loss=absolute).backend == "reference"


def test_errors_leave_gradients_alone() -> None:
    model, (support, query) = network(), classification()
    fastmaml.meta_step(model, support, query)
    before = gradients(model)
    wrong: list[tuple[type[Exception], dict[str, Any], Any, Any]] = [
        (fastmaml.SettingError, {"inner_steps": -1}, support, query),
        (fastmaml.SettingError, {"backend": "gpu"}, support, query),
        (fastmaml.ShapeError, {}, support, (query[0][:2], query[1][:2])),
        (fastmaml.SettingError, {}, (support[0], support[1] + 9), query),
        (fastmaml.ShapeError, {}, (support[0][:, :1], support[1][:, :1]), query),
        (fastmaml.DtypeError, {}, (support[0].half(), support[1]), query),
        (fastmaml.ShapeError, {}, (support[0][..., :1], support[1]), (query[0][..., :1], query[1])),
    ]
    for backend in ("fused", "auto"):
        for kind, options, s, q in wrong:
            with pytest.raises(kind):
                fastmaml.meta_step(model, s, q, **{"backend": backend, **options})
    for grad, old in zip(gradients(model), before, strict=True):
        assert torch.equal(grad, old)


def test_texts_of_the_fused_door() -> None:
    model, ((sx, sy), query) = network(), classification()
    step = fastmaml.meta_step
    refuses(
        fastmaml.SettingError,
        "meta_step: support y must hold class indices 0 to 2, as the model has 3 outputs, "
        "got 7 at [1, 2].",
        lambda: step(model, (sx, sy.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(7))),
                     query),
    )  # fmt: skip
    refuses(
        fastmaml.SettingError,
        'meta_step: backend must be "auto", "fused" or "reference", got \'cuda\'.',
        lambda: step(model, (sx, sy), query, backend="cuda"),  # type: ignore[arg-type]
    )
    frozen = network().requires_grad_(False)
    refuses(
        fastmaml.SettingError,
        "meta_step: the model must have a parameter with requires_grad=True",
        lambda: step(frozen, (sx, sy), query),
    )
    mixed = network()
    mixed[0].float()
    refuses(
        fastmaml.DtypeError,
        "meta_step: ",
        lambda: step(mixed, (sx.float(), sy), (query[0].float(), query[1])),
    )
    step(model, (sx, sy), query)
    model[0].weight.data = torch.randn(7, 2)
    refuses(
        fastmaml.ShapeError,
        "meta_step: layer `1` (torch.nn.BatchNorm1d) must get rows of shape [4], got [7]; ",
        lambda: step(model, (sx, sy), query),
    )


def test_verify_and_describe() -> None:
    model, data = network(), classification()
    report = fastmaml.verify(model, *data, inner_steps=2)
    assert report.ok
    assert report.backend == "fused"
    assert "agrees with the reference" in str(report)
    assert all(p.grad is None for p in model.parameters())
    assert fastmaml.verify(network().float(), *((x.float(), y) for x, y in data)).ok
    text = fastmaml.describe(model, *data)
    assert text.startswith("backend fused\n")
    assert "body:" in text
