"""Calls on a device: which executor runs, graphs and their pointers, rates that live on the device.

The device is the host's fake one (csrc/simt); `make test-cuda` runs the like on a real one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from device_code import on_fibers
from forced import Force
from networks import Workload
from small import gradients
from tolerances import assert_close
from torch import Tensor, nn

import fastmaml
from fastmaml import reference

NET = Workload(
    inputs=3, widths=(5, 4), outputs=2, activation="tanh", norm="rows", residual=False,
    shared=False, bias=True, loss="mse", reduction="mean", tasks=4, support_rows=4, query_rows=5,
    inner_steps=2, first_order=False, seed=7,
)  # fmt: skip
SETTINGS = {"loss": "mse", "inner_lr": 0.1, "inner_steps": 2}
MANY = 1000  # blocks a task: forces launches, though the network would fit one kernel


def model() -> nn.Module:
    return NET.model().double()


def wide() -> nn.Module:
    """A network whose state of a task does not fit in any device's shared memory."""
    torch.manual_seed(1)
    side = 190
    return nn.Sequential(
        nn.Linear(3, side), nn.Tanh(), nn.Linear(side, side), nn.Linear(side, 2)
    ).double()


def two_layers(side: int) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, side), nn.Tanh(), nn.Linear(side, 2)).double()


def widest_resident(describe: Callable[[nn.Module], str]) -> nn.Module:
    """The widest `two_layers` that one launch takes: beside its state there is no room for tables.

    One more unit takes less shared memory than the tables would.
    """
    few, many = 1, 2000
    assert "executor cuda resident" in describe(two_layers(few))
    assert "executor cuda graph" in describe(two_layers(many))
    while many - few > 1:
        side = (few + many) // 2
        if "executor cuda resident" in describe(two_layers(side)):
            few = side
        else:
            many = side
    return two_layers(few)


def step(
    net: nn.Module, data: object, **settings: object
) -> tuple[fastmaml.MetaStepResult, Tensor]:
    net.zero_grad()
    result = fastmaml.meta_step(net, *data, backend="fused", **{**SETTINGS, **settings})
    return result, torch.cat(gradients(net))


def truth(net: nn.Module, data: object, **settings: object) -> Tensor:
    net.zero_grad()
    reference.meta_step(net, *data, **{**SETTINGS, **settings})
    return torch.cat(gradients(net))


def test_a_small_network_takes_one_launch() -> None:
    net, data = model(), NET.data()
    with on_fibers() as module:
        step(net, data)  # the first call compares the network with the forward
        before = module.simt.counts()
        result, grad = step(net, data)
        after = module.simt.counts()
    assert result.executor == "cuda resident"
    assert after["launches"] - before["launches"] == 1
    assert after["graph_launches"] == before["graph_launches"]
    assert_close(grad, truth(net, data), "meta_f64")


def test_the_widest_network_of_one_launch() -> None:
    data = NET.data()
    with on_fibers():
        net = widest_resident(lambda net: fastmaml.describe(net, *data, **SETTINGS))
        result, grad = step(net, data)
    assert result.executor == "cuda resident"
    assert_close(grad, truth(net, data), "meta_f64")


def test_any_other_network_takes_one_graph_launch() -> None:
    net, data = wide(), NET.data()
    with on_fibers() as module:
        step(net, data)  # the first call compares the network with the forward
        before = module.simt.counts()
        result, grad = step(net, data)
        again, same = step(net, data)
        after = module.simt.counts()
    assert result.executor == again.executor == "cuda graph"
    assert after["launches"] == before["launches"]
    assert after["graph_launches"] - before["graph_launches"] == 2
    assert torch.equal(grad, same)
    assert_close(grad, truth(net, data), "meta_f64")


def test_the_executors_agree_bitwise() -> None:
    net, data = model(), NET.data()
    grads = {}
    for team in (0, MANY):
        with on_fibers(team=team) as module:
            result, grad = step(net, data)
            grads[result.executor] = grad
            if not team:
                continue
            module.simt.set_capturing(True)
            try:
                result, grad = step(net, data)
            finally:
                module.simt.set_capturing(False)
            grads[result.executor] = grad
    assert set(grads) == {"cuda resident", "cuda graph", "cuda launches"}
    first, *others = grads.values()
    assert all(torch.equal(first, other) for other in others)


def test_a_graph_takes_new_data_new_rates_and_new_weights() -> None:
    net = model()
    with on_fibers(team=MANY) as module:
        step(net, NET.data())
        before = module.simt.counts()["graphs"]
        for rate in (0.1, 0.02):
            data = [(torch.randn_like(x), torch.randn_like(y)) for x, y in NET.data()]
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(0.1)
            _, grad = step(net, data, inner_lr=rate)
            assert_close(grad, truth(net, data, inner_lr=rate), "meta_f64")
        kept = [torch.empty(1 << 16) for _ in range(3)]  # other addresses for what comes next
        _, grad = step(net, data)
        assert module.simt.counts()["graphs"] <= before + 1 + len(kept)
    assert_close(grad, truth(net, data), "meta_f64")


@pytest.mark.parametrize("team", [0, MANY], ids=["resident", "graph"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.0])
def test_learned_rate(rate: float, first_order: bool, team: int) -> None:
    """The rate lies on the device, and so does its gradient."""
    data, grads = NET.data(), []
    for call in (fastmaml.meta_step, reference.meta_step):
        net = model()
        alpha = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        settings = {**SETTINGS, "inner_lr": alpha, "first_order": first_order}
        with on_fibers(team=team):
            call(net, *data, **settings)
        grads.append((alpha.grad, torch.cat(gradients(net))))
    for ours, expected in zip(*grads, strict=True):
        assert_close(ours, expected, "meta_f64")


def test_adapt_and_losses() -> None:
    net, (support, query) = model(), NET.data()
    ours = fastmaml.adapt(net, support, **SETTINGS)
    expected = fastmaml.evaluate(net, [(support, query)], loss="mse", inner_lr=0.1, inner_steps=2)
    with on_fibers():
        device = fastmaml.adapt(net, support, **SETTINGS)
        found = fastmaml.evaluate(net, [(support, query)], loss="mse", inner_lr=0.1, inner_steps=2)
    for name, weight in ours.parameters.items():
        assert_close(device.parameters[name], weight, "meta_f64")
    assert_close(torch.tensor(found.loss), torch.tensor(expected.loss), "meta_f64")


@pytest.mark.parametrize("factored", [0, 1], ids=["dense", "factored"])
def test_less_memory_takes_rounds(factored: int, force: Force) -> None:
    force(factored=factored)
    net, data = wide(), NET.data()
    with on_fibers():
        most = fastmaml.workspace_bytes(net, *data, **SETTINGS) * 2 // 3
        _, whole = step(net, data)
        less = fastmaml.workspace_bytes(net, *data, **SETTINGS, max_workspace_bytes=most)
        _, parts = step(net, data, max_workspace_bytes=most)
    assert less <= most
    assert_close(parts, whole, "meta_f64")


def test_a_class_out_of_range_gives_nan_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device nobody looks at class indices beforehand; see fastmaml/engine/plan.py."""
    net = nn.Linear(3, 2)
    x, y = torch.randn(2, 4, 3), torch.randint(2, (2, 4))
    bad = y.clone()
    bad[1, 2] = 7
    with on_fibers():
        monkeypatch.setattr("fastmaml.engine.binding.targets_fit", lambda *_: True)
        result = fastmaml.meta_step(net, (x, y), (x, bad), backend="fused")
    assert result.task_losses[0].isfinite()
    assert result.task_losses[1].isnan()


def test_a_failed_launch_is_an_error_and_leaves_grad_alone() -> None:
    net, data = model(), NET.data()
    net.zero_grad()
    with on_fibers() as module:
        module.simt.fail_next_launch()
        with pytest.raises(fastmaml.BackendError, match=r"CUDA: .* failed: out of memory"):
            step(net, data)
        assert all(parameter.grad is None for parameter in net.parameters())
        _, grad = step(net, data)
    assert_close(grad, truth(net, data), "meta_f64")
