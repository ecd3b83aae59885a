"""The rate of each pass of each op, on one thread: `pytest benchmarks -m bench`.

An op is timed inside a second-order meta-step with one inner step whose network is little else: a
stack of equal layers. The engine times every instruction of the step (`CompiledPlan.profile`), and
an op's instructions are summed by pass. Linear layers and convolutions are reported in GFLOP/s, all
other ops in Gelements/s: the numbers of the layer's output, once for every visit of the pass. Rates
come from the median over rounds; pytest-benchmark's own table shows whole profiled steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.passes import LOSS_PASSES, PassTotal, Profiled, total_by_pass

binding = pytest.importorskip("fastmaml.engine.binding", reason="fastmaml is not installed")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not binding.available(), reason="fastmaml's engine is not built"),
]

TASKS = 16
CASE_SECONDS, FEWEST_ROUNDS, MOST_ROUNDS = 0.5, 3, 50


@dataclass(frozen=True, slots=True)
class LinearCase:
    """A stack of linear layers of one width on `rows` rows per task."""

    width: int
    rows: int
    factored: bool = False
    depth: int = 4

    def __str__(self) -> str:
        """As the case is called in the table."""
        return f"{self.width}x{self.rows}{'-factored' * self.factored}"


LINEAR_CASES = [
    LinearCase(40, 10),
    LinearCase(64, 5),
    LinearCase(256, 5),
    LinearCase(256, 5, factored=True),
    LinearCase(256, 25),
    LinearCase(1024, 25, depth=2),
    LinearCase(1024, 25, factored=True, depth=2),
]


@dataclass(frozen=True, slots=True)
class ConvCase:
    """A stack of convolutions of one width, kernel 3 x 3 and padding 1, on square images."""

    channels: int
    side: int
    rows: int
    groups: int = 1
    depth: int = 2

    def __str__(self) -> str:
        """As the case is called in the table."""
        return (
            f"{self.channels}x{self.side}x{self.side}x{self.rows}{'-depthwise' * (self.groups > 1)}"
        )


CONV_CASES = [
    ConvCase(64, 14, 5),
    ConvCase(32, 42, 5),
    ConvCase(32, 21, 25),
    ConvCase(32, 5, 25),
    ConvCase(32, 14, 5, groups=32),
]


class Double(nn.Module):
    """x + x, the residual add of a value to itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return x + x


class Joined(nn.Module):
    """x beside itself, and back to its channels."""

    def __init__(self, channels: int) -> None:
        """Of so many channels."""
        super().__init__()
        self.back = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The image's channels, mixed."""
        mixed: torch.Tensor = self.back(torch.cat([x, x], 1))
        return mixed


def _reshaped(channels: int) -> nn.Module:
    """Two changes of an image's shape in torch's layout, between layers that want the engine's."""
    half = (channels // 2, 2 * SIDE, SIDE)
    there = nn.Sequential(nn.Flatten(), nn.Unflatten(1, half), nn.AvgPool2d(1))
    back = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (channels, SIDE, SIDE)), nn.AvgPool2d(1))
    return nn.Sequential(there, back)


LAYERS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {  # name: (op, layer of a width)
    "relu": ("relu", lambda _: nn.ReLU()),
    "leaky_relu": ("leaky_relu", lambda _: nn.LeakyReLU()),
    "elu": ("elu", lambda _: nn.ELU()),
    "gelu": ("gelu", lambda _: nn.GELU()),
    "gelu_tanh": ("gelu", lambda _: nn.GELU(approximate="tanh")),
    "silu": ("silu", lambda _: nn.SiLU()),
    "softplus": ("softplus", lambda _: nn.Softplus()),
    "tanh": ("tanh", lambda _: nn.Tanh()),
    "sigmoid": ("sigmoid", lambda _: nn.Sigmoid()),
    "batch_norm": ("batch_norm", nn.BatchNorm1d),
    "add": ("add", lambda _: Double()),
}
IMAGE_LAYERS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {  # of so many channels
    "max_pool2d": ("max_pool2d", lambda _: nn.MaxPool2d(3, 1, 1)),
    "avg_pool2d": ("avg_pool2d", lambda _: nn.AvgPool2d(3, 1, 1)),
    "adaptive_avg_pool2d": ("adaptive_avg_pool2d", lambda _: nn.AdaptiveAvgPool2d(SIDE)),
    "batch_norm_images": ("batch_norm", nn.BatchNorm2d),
    "group_norm": ("group_norm", lambda c: nn.GroupNorm(4, c)),
    "instance_norm": ("group_norm", lambda c: nn.InstanceNorm2d(c, affine=True)),
    "layer_norm": ("layer_norm", lambda c: nn.LayerNorm((c, SIDE, SIDE))),
    "concat": ("concat", Joined),
    "permute": ("permute", _reshaped),
}
CHANNELS, SIDE, IMAGES, IMAGE_COPIES = 32, 14, 5, 4
STEM_SIDE = 84
LOSSES = ["mse", "cross_entropy", "bce_with_logits"]
WIDTH, ROWS, COPIES = 512, 32, 8


def measure(
    benchmark: Any, step: Profiled, totals: Callable[[Any], dict[str, PassTotal]]
) -> dict[str, PassTotal]:
    """Repeat a step; every pass that ran with its median seconds."""
    step()
    first = sum(time.seconds for time in step.times[0])
    rounds = max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(CASE_SECONDS / first)))
    benchmark.pedantic(step, rounds=rounds)
    found = [totals(times) for times in step.times[1:]]
    result = found[0]
    for name, total in result.items():
        total.seconds = median(one[name].seconds for one in found)
    assert set(result) >= set(LOSS_PASSES)
    return result


def report(benchmark: Any, unit: str, amounts: dict[str, tuple[float, float]]) -> None:
    """Leave the rates of all passes, from amount and seconds, with the benchmark."""
    benchmark.extra_info["unit"] = unit
    for name, (amount, seconds) in amounts.items():
        benchmark.extra_info[name] = round(amount / seconds / 1e9, 2)


@pytest.mark.parametrize("case", LINEAR_CASES, ids=str)
def test_linear(benchmark: Any, case: LinearCase) -> None:
    """A stack of linear layers; the sums over tasks hold the weight gradients of factored ones."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(case.width, case.width) for _ in range(case.depth)))
    x = torch.randn(TASKS, case.rows, case.width)
    step = Profiled(model, (x, torch.sin(x)), "mse", factored=int(case.factored))
    layers = step.layers("linear")
    found = measure(benchmark, step, lambda t: total_by_pass(t, layers, whole_program=True))
    report(benchmark, "GFLOP/s", {name: (t.flops, t.seconds) for name, t in found.items()})


@pytest.mark.parametrize("name", LAYERS)
def test_elementwise(benchmark: Any, name: str) -> None:
    """A stack of the op between two thin linear layers."""
    torch.manual_seed(0)
    op, layer = LAYERS[name]
    stack = [layer(WIDTH) for _ in range(COPIES)]
    model = nn.Sequential(nn.Linear(1, WIDTH), *stack, nn.Linear(WIDTH, 1))
    x = torch.randn(TASKS, ROWS, 1)
    step = Profiled(model, (x, torch.sin(x)), "mse")
    layers = step.layers(op)
    found = measure(benchmark, step, lambda t: total_by_pass(t, layers))
    numbers = TASKS * ROWS * WIDTH
    report(benchmark, "Gelements/s", {n: (numbers * t.visits, t.seconds) for n, t in found.items()})


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_conv2d(benchmark: Any, case: ConvCase) -> None:
    """A stack of convolutions between two thin ones."""
    torch.manual_seed(0)
    c = case.channels
    stack = [nn.Conv2d(c, c, 3, padding=1, groups=case.groups) for _ in range(case.depth)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1))
    model = nn.Sequential(nn.Conv2d(1, c, 1), *stack, head)
    x = torch.randn(TASKS, case.rows, 1, case.side, case.side)
    step = Profiled(model, (x, torch.sin(x[:, :, 0, 0, :1])), "mse")
    layers = {str(i + 1) for i in range(case.depth)}
    found = measure(benchmark, step, lambda t: total_by_pass(t, layers))
    report(benchmark, "GFLOP/s", {name: (t.flops, t.seconds) for name, t in found.items()})


def test_stem(benchmark: Any) -> None:
    """The first layers of a network over images, with the moments of their patches."""
    torch.manual_seed(0)
    c = CHANNELS
    first = nn.Sequential(nn.Conv2d(3, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1))
    model = nn.Sequential(*first, nn.MaxPool2d(2), *head)
    x = torch.randn(TASKS, IMAGES, 3, STEM_SIDE, STEM_SIDE)
    step = Profiled(model, (x, torch.sin(x[:, :, 0, 0, :1])), "mse")
    found = measure(benchmark, step, lambda t: total_by_pass(t, {"0", "0 patches"}))
    pixels = TASKS * IMAGES * STEM_SIDE * STEM_SIDE
    visits = {name: sum(label.count(" 0.") for label in t.labels) for name, t in found.items()}
    report(benchmark, "Gpixels/s", {n: (pixels * visits[n], t.seconds) for n, t in found.items()})


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_images(benchmark: Any, name: str) -> None:
    """A stack of the op on images between a thin convolution and a thin linear layer."""
    torch.manual_seed(0)
    op, layer = IMAGE_LAYERS[name]
    stack = [layer(CHANNELS) for _ in range(IMAGE_COPIES)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 1))
    model = nn.Sequential(nn.Conv2d(1, CHANNELS, 1), *stack, head)
    x = torch.randn(TASKS, IMAGES, 1, SIDE, SIDE)
    step = Profiled(model, (x, torch.sin(x[:, :, 0, 0, :1])), "mse")
    layers = step.layers(op)
    found = measure(benchmark, step, lambda t: total_by_pass(t, layers))
    numbers = TASKS * IMAGES * CHANNELS * SIDE * SIDE * (2 if op == "concat" else 1)
    report(benchmark, "Gelements/s", {n: (numbers * t.visits, t.seconds) for n, t in found.items()})


@pytest.mark.parametrize("width", [5, WIDTH])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss(benchmark: Any, loss: str, width: int) -> None:
    """The loss after one thin linear layer with so many outputs."""
    torch.manual_seed(0)
    x, y = torch.randn(TASKS, ROWS, 1), torch.rand(TASKS, ROWS, width)
    step = Profiled(nn.Linear(1, width), (x, y.argmax(-1) if loss == "cross_entropy" else y), loss)
    found = measure(benchmark, step, lambda t: total_by_pass(t, {loss}))
    numbers = TASKS * ROWS * width
    report(benchmark, "Gelements/s", {n: (numbers * t.visits, t.seconds) for n, t in found.items()})
