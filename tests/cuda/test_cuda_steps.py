"""Meta-steps of whole networks on a CUDA device against double backward on the host."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from equivalents import reordered
from forced import Force
from hypothesis import given, settings
from networks import Workload, workloads
from place import Place, truth
from small import gradients
from test_device_calls import NET, SETTINGS, model, wide
from tolerances import assert_close, assert_float32, assert_within_spread, relative_error
from torch import Tensor, nn

import fastmaml
from fastmaml import models, reference

pytestmark = pytest.mark.cuda


def test_random_networks_agree(place: Place) -> None:
    """In double; where torch's own answers vary (see test_meta_gradients), as near as they are."""

    @settings(max_examples=place.examples(60))
    @given(workloads())
    def check(load: Workload) -> None:
        net, data, options = load.model().double(), load.data(), load.settings()
        _, ours = place.step(net, data, **options)
        expected = truth(net, data, **options)
        draws = [expected]
        if load.norm == "rows":
            draws += [reordered(load, torch.float64, seed).grad for seed in range(8)]
        assert_within_spread(ours, expected, draws, "gradient_f64")

    check()


def test_float32_is_as_good_as_torchs(place: Place) -> None:
    @settings(max_examples=place.examples(30))
    @given(workloads(smooth=True))
    def check(load: Workload) -> None:
        options = load.settings()
        _, ours = place.step(load.model(), load.data(torch.float32), **options)
        expected = truth(load.model().double(), load.data(), **options)
        draws = [reordered(load, torch.float32, seed).grad for seed in range(5)]
        assert_float32(ours, max(draws, key=lambda g: relative_error(g, expected)), expected)

    check()


IMAGE_NETS = {  # the network, its input channels and the side of an image that it leaves a row of
    "conv4": (lambda: models.conv4(3, channels=4, image=21), 3, 21),
    "omniglot": (lambda: models.omniglot_conv(3, channels=4), 1, 13),
    "resnet12": (lambda: models.resnet12(3, channels=(2, 3, 2, 4)), 3, 17),
}


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", IMAGE_NETS)
def test_networks_over_images_agree(name: str, steps: int, place: Place) -> None:
    make, channels, side = IMAGE_NETS[name]
    net = make().double()
    data = [
        (torch.randn(2, 6, channels, side, side, dtype=torch.float64), torch.randint(3, (2, 6)))
        for _ in range(2)
    ]
    options = {"inner_lr": 0.01, "inner_steps": steps}
    _, ours = place.step(net, data, **options)
    assert_close(ours, truth(net, data, **options), "gradient_f64")


@pytest.mark.parametrize("team", [0, 1000], ids=["resident", "graph"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.0])
def test_learned_rate(
    rate: float, first_order: bool, team: int, place: Place, force: Force
) -> None:
    """The rate lies on the device, and so does its gradient."""
    force(team=team)
    grads: list[tuple[Tensor, Tensor]] = []
    for device in (place.device, torch.device("cpu")):
        net, data = model(), NET.data()
        alpha = torch.tensor(rate, dtype=torch.float64, device=device, requires_grad=True)
        options = {**SETTINGS, "inner_lr": alpha, "first_order": first_order}
        if grads:
            reference.meta_step(net, *data, **options)
        else:
            net = net.to(device)
            fastmaml.meta_step(net, *place.put(data), backend="fused", **options)
        assert alpha.grad is not None
        assert alpha.grad.device == device
        grads.append((alpha.grad.cpu(), torch.cat(gradients(net)).cpu()))
    for ours, expected in zip(*grads, strict=True):
        assert_close(ours, expected, "meta_f64")


def test_adapt_and_evaluate(place: Place) -> None:
    net, (support, query) = model(), NET.data()
    evaluation = {"loss": "mse", "inner_lr": 0.1, "inner_steps": 2}
    expected = fastmaml.adapt(net, support, backend="reference", **SETTINGS)
    there = deepcopy(net).to(place.device)
    (near,) = place.put([support])
    found = fastmaml.adapt(there, near, backend="fused", **SETTINGS)
    for name, weight in expected.parameters.items():
        assert_close(found.parameters[name].cpu(), weight, "meta_f64")
    prediction = found.predict(query[0].to(place.device)).cpu()
    assert_close(prediction, expected.predict(query[0]), "meta_f64")
    ours = fastmaml.evaluate(there, [place.put((support, query))], **evaluation)
    theirs = fastmaml.evaluate(net, [(support, query)], backend="reference", **evaluation)
    assert_close(torch.tensor(ours.loss), torch.tensor(theirs.loss), "meta_f64")


@pytest.mark.parametrize("factored", [0, 1], ids=["dense", "factored"])
def test_less_memory_takes_rounds(factored: int, place: Place, force: Force) -> None:
    force(factored=factored)
    net, data = wide(), NET.data()
    there = deepcopy(net).to(place.device)
    free = fastmaml.workspace_bytes(there, *place.put(data), **SETTINGS)
    _, parts = place.step(net, data, max_workspace_bytes=free // 2, **SETTINGS)
    assert_close(parts, truth(net, data, **SETTINGS), "meta_f64")


def test_recomputed_activations_give_the_same_bits(place: Place) -> None:
    net, data = wide(), NET.data()
    grads = [place.step(net, data, recompute=again, **SETTINGS)[1] for again in (False, True)]
    assert torch.equal(*grads)


def test_a_class_out_of_range_gives_nan_and_no_crash(gpu: Place) -> None:
    net = nn.Linear(3, 2)
    x, y = torch.randn(2, 4, 3), torch.randint(2, (2, 4))
    bad = y.clone()
    bad[1, 2] = 7
    result, _ = gpu.step(net, ((x, y), (x, bad)))
    assert result.task_losses[0].isfinite()
    assert result.task_losses[1].isnan()


def test_gradients_are_added(place: Place) -> None:
    net, data = model().to(place.device), place.put(NET.data())
    for _ in range(2):
        fastmaml.meta_step(net, *data, backend="fused", **SETTINGS)
    twice = torch.cat(gradients(net)).cpu()
    assert_close(twice, 2 * truth(model(), NET.data(), **SETTINGS), "meta_f64")
