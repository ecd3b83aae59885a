"""precision="tf32": the model of the tensor cores, meta-steps on fibers, and the door."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from device_code import ORDERS, TEAMS, load, on_fibers
from forced import Force
from small import gradients
from tolerances import TOLERANCE, assert_close, assert_within_spread, relative_error
from torch import Tensor, nn

import fastmaml
from fastmaml import reference

EDGES = [0.0, -0.0, 1.0, float("inf"), -float("inf"), float("nan"), 1.5e-42, 3.4e38, -3.4e38]
LANES = range(32)


def rounded(x: Tensor) -> Tensor:
    """To 10 bits of mantissa, ties away from zero, in float64."""
    mantissa, exponent = torch.frexp(x.double())
    scaled = mantissa * 2.0**11
    return torch.ldexp(scaled.sign() * (scaled.abs() + 0.5).floor(), exponent - 11)


# --- the model of one product, against the layout that the PTX ISA gives --------------------------


def warp_product(a: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """The sum d + a b, by one warp: a [16, 8], b [8, 8], d [16, 8]."""
    place = [(lane // 4, lane % 4) for lane in LANES]
    from_a = torch.stack([a[[g, g + 8, g, g + 8], [t, t, t + 4, t + 4]] for g, t in place])
    from_b = torch.stack([b[[t, t + 4], [g, g]] for g, t in place])
    rows = [[g, g, g + 8, g + 8] for g, _ in place]
    columns = [[2 * t, 2 * t + 1, 2 * t, 2 * t + 1] for _, t in place]
    sums = d[rows, columns].contiguous()
    load().simt.multiply_fragments(from_a.data_ptr(), from_b.data_ptr(), sums.data_ptr())
    result = torch.full_like(d, float("nan"))
    result[rows, columns] = sums
    return result


def test_a_warp_multiplies_rounded_matrices() -> None:
    a, b, d = torch.randn(16, 8), torch.randn(8, 8), torch.randn(16, 8)
    expected = d.double() + rounded(a) @ rounded(b)
    size = d.double().abs() + rounded(a).abs() @ rounded(b).abs()
    error = (warp_product(a, b, d).double() - expected).abs() / size
    assert error.max() <= 8 * torch.finfo(torch.float32).eps


def test_every_factor_lands_where_it_belongs() -> None:
    """Small whole numbers: sums are exact, so that a wrong place cannot hide in a tolerance."""
    a, b = torch.arange(128.0).view(16, 8), torch.arange(64.0).view(8, 8).flip(0)
    assert torch.equal(warp_product(a, b, torch.ones(16, 8)), 1 + a @ b)


def test_rounding_is_to_nearest_and_ties_go_away_from_zero() -> None:
    step = 2.0**-10
    cases = [1 + k * step / 4 for k in range(9)] + [2 - step / 4, 1e-30, 7e20]
    values = torch.tensor([*cases, *(-c for c in cases)])
    for x in values:
        a = torch.zeros(16, 8)
        a[3, 5] = x
        found = warp_product(a, torch.eye(8), torch.zeros(16, 8))[3, 5]
        assert found.double() == rounded(x), (x, found)


@pytest.mark.parametrize("x", EDGES)
def test_rounding_keeps_what_is_no_number(x: float) -> None:
    a = torch.zeros(16, 8)
    a[0, 0] = x
    unit = torch.zeros(8, 8)
    unit[0, 0] = 1.0
    found = warp_product(a, unit, torch.zeros(16, 8))[0, 0]
    assert torch.equal(found.isnan(), torch.tensor(x).isnan())
    assert torch.equal(found.isinf(), torch.tensor(x).abs() > 3.4e38)
    if not (found.isnan() or found.isinf()):
        assert abs(float(found) - x) <= abs(x) * 2.0**-11 + 2.0**-136


# --- whole products and meta-steps ----------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 5, 24, 25, 70])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 2), (8, 64), (33, 70), (700, 20)])
def test_a_linear_layer_multiplies_rounded_matrices(rows: int, inputs: int, outputs: int) -> None:
    """All sizes of tile, edges and chains: logits before any step are the layer's own."""
    net = nn.Linear(inputs, outputs)
    x, y = torch.randn(3, rows, inputs), torch.randn(3, rows, outputs)
    with on_fibers():
        result = fastmaml.meta_step(
            net, (x, y), (x, y), loss="mse", inner_steps=0, precision="tf32", backend="fused"
        )
    weight, bias = net.weight.detach(), net.bias.detach().double()
    few = rows == 1  # a single row takes no tile, and is not rounded
    product = x.double() @ weight.double().T if few else rounded(x) @ rounded(weight).T
    assert_close(result.logits, product + bias, "tf32_sums")


class Images(nn.Module):
    """Convolutions whose tiles are high, low and narrow, and whose pixels fall into parts."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 40, 3, padding=1)
        self.second = nn.Conv2d(40, 24, 3, stride=2, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(24)
        self.head = nn.Linear(24 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.head(torch.tanh(self.norm(self.second(x))).flatten(1))


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 70), nn.BatchNorm1d(70), nn.Tanh(), nn.Linear(70, 40), nn.SiLU(),
        nn.Linear(40, 5),
    )  # fmt: skip


def stem() -> nn.Module:
    block = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*block, nn.Flatten(), nn.Linear(16 * 9, 5))


MODELS = {
    "linear": (perceptron, (20,)),
    "conv": (Images, (4, 6, 6)),
    "conv groups": (lambda: Images(4), (4, 6, 6)),
    "stem": (stem, (3, 6, 6)),
}
SETTINGS: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 2}


def pairs(row: tuple[int, ...], tasks: int = 3) -> tuple[Any, Any]:
    return tuple((torch.randn(tasks, r, *row), torch.randint(5, (tasks, r))) for r in (5, 30))


def answer(net: nn.Module, data: Any, **settings: Any) -> list[Tensor]:
    net.zero_grad()
    result = fastmaml.meta_step(net, *data, backend="fused", **{**SETTINGS, **settings})
    assert result.executor == ("cuda graph" if "precision" in settings else result.executor)
    return [result.task_losses, result.logits, torch.cat(gradients(net))]


def truth(net: nn.Module, data: Any, **settings: Any) -> list[Tensor]:
    double = net.double()
    double.zero_grad()
    both = [(x.double(), y) for x, y in data]
    result = reference.meta_step(double, *both, **{**SETTINGS, **settings})
    found = [result.task_losses, result.logits, torch.cat(gradients(double))]
    net.float()
    return found


def moved(net: nn.Module, data: Any) -> tuple[nn.Module, Any]:
    """The same problem with every number off by as much as tf32 products are."""

    def off(x: Tensor) -> Tensor:
        return x * (1 + (2 * torch.rand_like(x) - 1) * 2.0**-10)

    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(off(parameter))
    return other, [(off(x), y) for x, y in data]


def check(net: nn.Module, data: Any, *, kinks: bool = False) -> None:
    """Assert that a meta-step errs as its rounding lets it, in both orders."""
    for first_order in (False, True):
        with on_fibers():
            single = answer(net, data, first_order=first_order)
            tf32 = answer(net, data, first_order=first_order, precision="tf32")
        exact = truth(net, data, first_order=first_order)
        draws = [truth(*moved(net, data), first_order=first_order) for _ in range(3 * kinks)]
        for i, (ours, plain, expected) in enumerate(zip(tf32, single, exact, strict=True)):
            if kinks:
                assert_within_spread(ours, expected, [draw[i] for draw in draws], "tf32")
            else:
                assert_close(ours, expected, "tf32")
            # It really ran: its error is tf32's, far beyond float32's.
            assert relative_error(ours, expected) > 4 * relative_error(plain, expected)


@pytest.mark.parametrize("factored", [0, 1], ids=["dense", "factored"])
def test_linear_meta_steps(factored: int, force: Force) -> None:
    force(factored=factored)
    check(perceptron(), pairs((20,)))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 4])
def test_convolutional_meta_steps(groups: int) -> None:
    check(Images(groups), pairs((4, 6, 6)))


@pytest.mark.slow
def test_stem_meta_steps() -> None:
    """Its maxima and its ReLU jump where rounding turns a comparison."""
    check(stem(), pairs((3, 6, 6)), kinks=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_bits_depend_on_neither_order_nor_team(name: str) -> None:
    make, row = MODELS[name]
    net, data = make(), pairs(row, tasks=2)
    answers = []
    for order, team in [*((o, 0) for o in ORDERS[:3]), *((ORDERS[0], t) for t in TEAMS[1:])]:
        with on_fibers(order, team):
            answers.append(answer(net, data, precision="tf32"))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


def test_a_task_does_not_depend_on_the_tasks_beside_it() -> None:
    net, (support, query) = perceptron(), pairs((20,))
    with on_fibers():
        whole = answer(net, (support, query), precision="tf32")
        alone = answer(net, [(x[1:2], y[1:2]) for x, y in (support, query)], precision="tf32")
    assert torch.equal(whole[1][1], alone[1][0])


def test_every_call_takes_it() -> None:
    net, (support, query) = perceptron(), pairs((20,))
    given = {**SETTINGS, "precision": "tf32"}
    with on_fibers():
        step = fastmaml.meta_step(net, support, query, **given)
        loss = fastmaml.meta_loss(net, support, query, **given)
        found = fastmaml.evaluate(net, [(support, query)], **given)
        rounded_ones = fastmaml.adapt(net, support, **given).parameters
        plain = fastmaml.adapt(net, support, **SETTINGS).parameters
        text = fastmaml.describe(net, support, query, **given)
        assert "precision" not in fastmaml.describe(net, support, query, **SETTINGS)
    assert torch.equal(step.task_losses.mean(), loss)
    assert found.loss[-1] == pytest.approx(float(step.loss))
    assert "\nprecision tf32 in linear layers and convolutions\n" in text
    error = relative_error(rounded_ones["0.weight"], plain["0.weight"])
    assert torch.finfo(torch.float32).eps < error <= TOLERANCE["tf32"]


# --- the door -------------------------------------------------------------------------------------


def refused(text: str, net: nn.Module, data: Any, **settings: Any) -> None:
    with pytest.raises(fastmaml.SettingError, match=f"^meta_step: {re.escape(text)}$"):
        fastmaml.meta_step(net, *data, **{"precision": "tf32", **settings})


@pytest.mark.parametrize("value", ["float64", "TF32", None, True, torch.float32])
def test_other_precisions_are_refused(value: Any) -> None:
    text = (
        f'precision must be "float32" or "tf32", got {value!r}; float64 is the model\'s own dtype.'
    )
    refused(text, perceptron(), pairs((20,)), precision=value)


@pytest.mark.parametrize("backend", ["auto", "fused"])
def test_float64_is_refused(backend: str) -> None:
    data = [(x.double(), y) for x, y in pairs((20,))]
    with on_fibers():
        refused(
            'precision="tf32" rounds products of torch.float32 parameters, got torch.float64; '
            'call model.float(), or pass precision="float32".',
            perceptron().double(), data, backend=backend,
        )  # fmt: skip


@pytest.mark.parametrize("backend", ["auto", "fused"])
def test_the_cpu_is_refused(backend: str) -> None:
    refused(
        'precision="tf32" needs a CUDA device, got parameters on cpu; call model.cuda(), or pass '
        'precision="float32".',
        perceptron(), pairs((20,)), backend=backend,
    )  # fmt: skip


def test_the_reference_is_refused() -> None:
    with on_fibers():
        refused(
            'precision="tf32" is for the fused engine, got backend="reference"; leave it out, the '
            "reference computes as torch.set_float32_matmul_precision says.",
            perceptron(), pairs((20,)), backend="reference",
        )  # fmt: skip


class Unknown(nn.Module):
    """A layer that the engine cannot take."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.layer(x), 1)


def test_what_the_engine_cannot_take_runs_on_the_reference() -> None:
    data = pairs((20,))
    with on_fibers():
        with pytest.warns(UserWarning, match="runs on the slower PyTorch"):
            result = fastmaml.meta_step(Unknown(), *data, precision="tf32")
        text = fastmaml.describe(Unknown(), *data, precision="tf32")
    assert result.backend == "reference"
    assert text.startswith("backend reference\n")
