"""The oracle against closed forms and central differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from small import S, T, classification, gradients, network, regression
from tolerances import assert_close
from torch import Tensor, nn

from fastmaml import reference


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_linear_regression_in_closed_form(steps: int, first_order: bool) -> None:
    """With the loss |X w - y|^2 / S the Hessian is A = 2/S X^T X whatever w is."""
    model = nn.Linear(3, 1, bias=False)
    support, query = regression(features=3)
    rate = torch.tensor(0.1, requires_grad=True)
    result = reference.meta_step(
        model,
        support,
        query,
        loss="mse",
        inner_lr=rate,
        inner_steps=steps,
        first_order=first_order,
    )

    def slope(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return 2 / len(x) * x.mT @ (x @ w - y)

    losses, grad, rate_grad = [], torch.zeros(3, 1), torch.zeros(())
    for (sx, sy), (qx, qy) in zip(
        zip(*support, strict=True), zip(*query, strict=True), strict=True
    ):
        contraction = torch.eye(3) - 0.1 * 2 / S * sx.mT @ sx
        w, g = model.weight.detach().mT, []
        for _ in range(steps):
            g.append(slope(sx, sy, w))
            w = w - 0.1 * g[-1]
        v = slope(qx, qy, w)
        for inner in reversed(g):
            rate_grad -= (v * inner).sum() / T
            v = v if first_order else contraction @ v
        grad += v / T
        losses.append((qx @ w - qy).square().mean())
    assert model.weight.grad is not None
    assert rate.grad is not None
    assert_close(model.weight.grad, grad.mT, "meta_f64")
    assert_close(result.task_losses, torch.stack(losses), "meta_f64")
    assert_close(result.loss, torch.stack(losses).mean(), "meta_f64")
    assert_close(rate.grad, rate_grad, "meta_f64")


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "bce_with_logits"])
def test_central_differences(loss: str, steps: int) -> None:
    """All of theta and the rate, moved both ways along random directions."""
    model = network()
    support, query = classification() if loss == "cross_entropy" else regression(3)
    if loss == "bce_with_logits":
        support, query = (support[0], support[1].sigmoid()), (query[0], query[1].sigmoid())
    rate = torch.tensor(0.3, requires_grad=True)

    def value() -> Tensor:
        return reference.meta_loss(
            model, support, query, loss=loss, inner_lr=rate, inner_steps=steps
        ).detach()

    reference.meta_step(model, support, query, loss=loss, inner_lr=rate, inner_steps=steps)
    tensors: list[Tensor] = [*model.parameters(), rate]
    analytic, numeric = [], []
    for _ in range(6):
        direction = [torch.randn_like(tensor) for tensor in tensors]
        slopes = [(t.grad * d).sum() for t, d in zip(tensors, direction, strict=True)]
        analytic.append(torch.stack(slopes).sum())
        numeric.append(difference(value, tensors, direction))
    assert_close(torch.stack(analytic), torch.stack(numeric), "difference_f64")


def difference(
    value: Callable[[], Tensor], tensors: list[Tensor], direction: list[Tensor]
) -> Tensor:
    """Central difference of the fourth order along a direction; the tensors come back as before."""
    start = [tensor.detach().clone() for tensor in tensors]
    step, at = 1e-3, {}
    with torch.no_grad():
        for k in (-2, -1, 1, 2, 0):
            for tensor, origin, d in zip(tensors, start, direction, strict=True):
                tensor.copy_(origin + k * step * d)
            at[k] = value()
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)


def test_inner_loop_by_central_differences() -> None:
    """One adapted step is theta - alpha * grad, the gradient formed without autograd."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    support, _ = regression()
    tasks = reference.adapt(model, support, loss="mse", inner_lr=0.5)
    for name, parameter in model.named_parameters():
        axes = torch.eye(parameter.numel()).view(-1, *parameter.shape)
        for t in range(T):

            def value(t: int = t) -> Tensor:
                return (model(support[0][t]) - support[1][t]).square().mean()

            grad = torch.stack([difference(value, [parameter], [axis]) for axis in axes])
            expected = parameter.detach() - 0.5 * grad.view(parameter.shape)
            assert_close(tasks.parameters[name][t], expected, "difference_f64")


def test_batch_norm_uses_the_rows_of_each_pass() -> None:
    """As if it were written out, support and query apart; running statistics stay."""

    class Written(nn.Module):
        def __init__(self, layers: nn.Sequential) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            first, norm, act, *rest = self.layers
            x = first(x)
            x = (x - x.mean(0)) / (x.var(0, unbiased=False) + norm.eps).sqrt()
            x = act(x * norm.weight + norm.bias)
            for layer in rest:
                x = layer(x)
            return x

    model = network()
    support, query = classification()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    ours = reference.meta_step(model, support, query, inner_steps=2)
    grads = gradients(model)
    model.zero_grad()
    theirs = reference.meta_step(Written(model), support, query, inner_steps=2)
    assert_close(ours.logits, theirs.logits, "meta_f64")
    # Together: the gradient of a bias before batch norm is rounding and nothing else.
    assert_close(torch.cat(grads), torch.cat(gradients(model)), "gradient_f64")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_eval_mode_uses_running_statistics() -> None:
    model = network().eval()
    norm = model[1]
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    support, query = classification()
    single = (query[0][:, :1], query[1][:, :1])
    whole = reference.meta_step(model, support, query, inner_steps=2)
    alone = reference.meta_step(model, support, single, inner_steps=2)
    assert_close(alone.logits, whole.logits[:, :1], "meta_f64")
