"""The fused meta-gradient of convolutional networks against double backward and differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conv_networks import ConvWorkload, conv_workloads
from equivalents import Answer, answer
from forced import Force
from hypothesis import given, settings
from tolerances import (
    assert_close,
    assert_float32,
    assert_within_spread,
    relative_error,
    within,
)
from torch import Tensor, nn

import fastmaml
from fastmaml import reference

DRAWS = 16  # equivalent runs that torch's spread is read off
EXCUSED = 0.05  # share of the examples that may need it


def fused(model: nn.Module, data: Any, **options: Any) -> Answer:
    return answer(model, fastmaml.meta_step(model, *data, backend="fused", **options))


def truth(model: nn.Module, data: Any, **options: Any) -> Answer:
    return answer(model, reference.meta_step(model, *data, **options))


def few_numbers(load: ConvWorkload) -> bool:
    """Whether statistics of data are taken: of few numbers, rounding may grow to any size."""
    return any(layer.norm not in ("none", "running") for layer in load.layers)


def reordered(load: ConvWorkload, dtype: torch.dtype, seed: int) -> Answer:
    """The reference's answer with rows, and so the sums over them, in another order."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(n, generator=generator) for n in (load.support_rows, load.query_rows)]
    data = [(x[:, r], y[:, r]) for (x, y), r in zip(load.data(dtype), rows, strict=True)]
    found = truth(load.model().to(dtype), data, **load.settings())
    return found._replace(logits=found.logits[:, rows[1].argsort()])


def agrees(load: ConvWorkload) -> bool:
    """Assert agreement with double backward; say whether that took torch's own spread."""
    model, data, options = load.model().double(), load.data(), load.settings()
    ours, expected = fused(model, data, **options), truth(model, data, **options)
    if not few_numbers(load) or all(map(within, ours, expected)):
        for mine, theirs in zip(ours, expected, strict=True):
            assert_close(mine, theirs, "gradient_f64")
        return False
    draws = [reordered(load, torch.float64, seed) for seed in range(DRAWS)]
    for mine, theirs, others in zip(ours, expected, zip(*draws, strict=True), strict=True):
        assert_within_spread(mine, theirs, others, "gradient_f64")
    return True


def steady(load: ConvWorkload) -> bool:
    """Whether no statistics are taken of numbers that are all the same.

    Behind a ReLU that is 0 everywhere they are. Their normalised value is 0, or in torch's form
    x * scale + shift some 1e-14 of either sign, which decides the next ReLU.
    """
    model, variances = load.model().double(), [math.inf]

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        if isinstance(layer, nn.BatchNorm2d):
            x = x.transpose(0, 1).flatten(1)
        else:
            groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else x.shape[1]
            x = x.reshape(x.shape[0] * groups, -1)
        spread = x.var(1, correction=0) / x.square().mean(1).clamp_min(1e-30)
        variances.append(float(spread.min()))

    for module in model.modules():
        takes = isinstance(module, nn.GroupNorm | nn.InstanceNorm2d)
        if takes or (isinstance(module, nn.BatchNorm2d) and module.training):
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        for x, _ in load.data():
            for task in x:
                model(task)
    return min(variances) > 1e-12


def runs(load: ConvWorkload) -> bool:
    """Whether torch itself accepts the batch statistics: one number a channel it does not."""
    try:
        truth(load.model().double(), load.data(), **{**load.settings(), "inner_steps": 0})
    except ValueError:
        return False
    return True


def all_agree(examples: int) -> None:
    """Draw workloads; all must agree, and all but a few without the help of torch's spread."""
    seen: list[bool] = []

    @settings(max_examples=examples)
    @given(conv_workloads())
    def check(load: ConvWorkload) -> None:
        if runs(load) and steady(load):
            seen.append(agrees(load))

    check()
    print(f"{sum(seen)} of {len(seen)} examples needed torch's spread")
    assert len(seen) >= examples // 2
    assert sum(seen) <= math.ceil(EXCUSED * len(seen))


def test_random_networks_agree() -> None:
    all_agree(40)


@pytest.mark.parametrize("tile", [5, 6])
def test_random_networks_agree_by_winograd(tile: int, force: Force) -> None:
    force(winograd=tile)
    all_agree(40)


def test_random_networks_agree_with_moments(force: Force) -> None:
    force(moment_bytes=0, winograd=0)
    all_agree(40)


@pytest.mark.slow
def test_many_random_networks_agree() -> None:
    all_agree(500)


@settings(max_examples=25)
@given(conv_workloads())
def test_float32_is_as_good_as_torchs(load: ConvWorkload) -> None:
    """On networks without kinks, which rounding may step over on one side and not on the other."""
    smooth = all(
        layer.activation in ("tanh", "silu")
        and layer.pool != "max"
        and layer.norm in ("none", "running")
        for layer in load.layers
    )
    if not smooth:
        return
    expected = truth(load.model().double(), load.data(), **load.settings()).grad
    ours = fused(load.model(), load.data(torch.float32), **load.settings()).grad
    draws = [reordered(load, torch.float32, seed).grad for seed in range(5)]
    assert_float32(ours, max(draws, key=lambda g: relative_error(g, expected)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@settings(max_examples=10)
@given(load=conv_workloads())
def test_bits_depend_on_neither_threads_nor_repetition(
    dtype: torch.dtype, load: ConvWorkload
) -> None:
    model, data, options = load.model().to(dtype), load.data(dtype), load.settings()
    if not runs(load):
        return
    answers = []
    for threads in (1, 2, 3, 7, 1):
        torch.set_num_threads(threads)
        answers.append(fused(model.to(dtype), data, **options))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


class Smooth(nn.Module):
    """Strides, groups, both norms, a residual, overlapping means: no kink anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding="same", groups=2)
        self.third = nn.Conv2d(4, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm(self.first(x)))
        h = F.avg_pool2d(h + torch.tanh(self.second(h)), 3, 1)
        return self.third(h).mean((2, 3))


def images(
    tasks: int = 2, rows: int = 4, shape: tuple[int, ...] = (2, 7, 6), classes: int = 3
) -> list[tuple[Tensor, Tensor]]:
    return [
        (
            torch.randn(tasks, rows + i, *shape, dtype=torch.float64),
            torch.randint(classes, (tasks, rows + i)),
        )
        for i in range(2)
    ]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_central_differences(steps: int) -> None:
    """The meta-gradient is the slope of the fused meta-loss itself."""
    model, data = Smooth().double(), images()
    options = {"inner_lr": 0.1, "inner_steps": steps, "loss": "cross_entropy"}
    grad = fused(model, data, **options).grad
    direction = torch.randn_like(grad)
    start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    step, ends = 1e-5, []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(start + sign * step * direction, model.parameters())
        ends.append(fused(model, data, **options).task_losses.mean())
    assert_close(grad @ direction, (ends[0] - ends[1]) / (2 * step), "difference_f64")


TIES: dict[str, nn.Module] = {
    "plain": nn.MaxPool2d(2),
    "overlapping": nn.MaxPool2d(3, 1, 1),
    "ceil": nn.MaxPool2d(2, 2, 1, ceil_mode=True),
    "relu": nn.ReLU(),
}


@pytest.mark.parametrize("pool", TIES.values(), ids=TIES)
@pytest.mark.parametrize("values", [[1.0], [0.0], [0.0, 1.0]], ids=str)
@pytest.mark.parametrize("steps", [0, 1])
def test_ties_and_zeros_are_torchs(pool: nn.Module, values: list[float], steps: int) -> None:
    """Of equal numbers the first is the maximum; a ReLU at 0 lets nothing through."""
    conv = nn.Conv2d(1, 2, 1)
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    model = nn.Sequential(conv, pool, nn.Conv2d(2, 3, 2), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 1, 5, 6))
    data = images(shape=(1, 5, 6))
    data = [(torch.tensor(values)[x.abs().long() % len(values)].double(), y) for x, y in data]
    options = {"inner_steps": steps, "loss": "cross_entropy"}
    model.double()
    for mine, theirs in zip(
        fused(model, data, **options), truth(model, data, **options), strict=True
    ):
        assert_close(mine, theirs, "op_f64")


def test_any_strides() -> None:
    """Channels-last, expanded, sliced and transposed images are the same numbers."""
    model, data = Smooth().double(), images()
    expected = fused(model, data)
    (sx, sy), query = data
    last = sx.movedim(2, -1).contiguous().movedim(-1, 2)
    wide = torch.randn(2, 4, 2, 7, 12, dtype=torch.float64)
    wide[..., ::2] = sx
    for x in (last, wide[..., ::2], sx.transpose(3, 4).contiguous().transpose(3, 4)):
        assert not x.is_contiguous()
        assert all(map(torch.equal, fused(model, [(x, sy), query]), expected))
    same = sx[:, :1].expand(-1, 4, -1, -1, -1)
    ours = fused(model, [(same, sy), query])
    assert all(map(torch.equal, ours, fused(model, [(same.contiguous(), sy), query])))


@pytest.mark.parametrize("tail", [[], [nn.ReLU()], [nn.MaxPool2d(2)]], ids=["conv", "relu", "pool"])
def test_images_as_logits(tail: list[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 2), *tail).double()
    with torch.no_grad():
        shape = model(torch.zeros(1, 2, 7, 6, dtype=torch.float64)).shape[1:]
    data = [(x, torch.randn(*x.shape[:2], *shape, dtype=torch.float64)) for x, _ in images()]
    options = {"loss": "mse", "inner_steps": 2}
    for mine, theirs in zip(
        fused(model, data, **options), truth(model, data, **options), strict=True
    ):
        assert_close(mine, theirs, "meta_f64")
