"""Batch statistics in a convolution's epilogue, forced on every convolution that has one.

The CPU's groups are some rows in a row, about 4096 numbers, a device's the rows of a tile: 16, 32,
64 or 128. Cases have fewer rows than a group, rows that are no multiple, and ragged channels.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import test_device_ops
import test_device_races
import torch
from device_code import ORDERS, TEAMS, on_fibers
from forced import Force
from op_case import OpCase, norm
from op_cases import PASSES, case_id
from op_cases_image import image
from test_ops import RATE, Pairs, answer, check, check_bits, data, every_set
from tolerances import TOLERANCE, assert_close, relative_error
from torch import Tensor, nn

import fastmaml
from fastmaml import losses, reference
from fastmaml.engine.binding import CompiledPlan, PlanSettings
from fastmaml.tracing.trace import trace

NEVER = 1 << 60
Shape = tuple[int, int, int]


@pytest.fixture(autouse=True)
def _always(force: Force) -> None:
    force(moment_bytes=0, winograd=0)


# What follows the norm: nothing, or what the planner takes into it.
FORMS: dict[str, list[nn.Module]] = {
    "plain": [],
    "relu": [nn.ReLU()],
    "leaky relu": [nn.LeakyReLU(0.3)],
    "pooled": [nn.ReLU(), nn.MaxPool2d(2)],
    "pooled, no relu": [nn.MaxPool2d((1, 3))],
}


def case(
    variant: str,
    shape: Shape,
    *sizes: object,
    form: str = "relu",
    freeze: str = "",
    norms: str = "",
    **options: object,
) -> OpCase:
    """A convolution and the norm behind it, made anew each time."""

    def model() -> nn.Module:
        features = sizes[0]
        layers = (
            nn.Conv2d(shape[0], *sizes, **options),
            norm(nn.BatchNorm2d, features, freeze=norms),
        )
        # What the head sees must not be many numbers, or its steps would be too long.
        after = *copy.deepcopy(FORMS[form]), nn.Tanh(), nn.AdaptiveAvgPool2d((2, 1))
        return nn.Sequential(*layers, *after)

    return image("batch_norm", f"{variant}, {form}", model, freeze, shape)


CASES = [
    case("fewer rows than a group", (2, 5, 4), 3, 3),
    case("low tiles", (2, 4, 4), 3, 3),
    case("no bias", (2, 5, 4), 3, 2, bias=False),
    *(case("several groups", (2, 7, 5), 37, 3, form=form, padding=1) for form in FORMS),
    case("narrow tiles", (3, 7, 5), 32, 3, padding=1),
    case("two tiles of columns", (2, 7, 5), 70, 3, padding=1, bias=False),
    case("few rows a group", (3, 4, 3), 300, 1),
    case("stride", (3, 9, 7), 33, 3, stride=2, padding=1, form="plain"),
    case("groups", (4, 7, 5), 40, 3, padding=1, groups=2),
    case("frozen weight", (2, 7, 5), 37, 3, freeze="op.0.weight"),
    case(
        "made once for all steps",
        (2, 7, 5),
        37,
        3,
        freeze="first.weight first.bias op.0.weight op.0.bias",
    ),
    case("weight of the norm alone", (2, 7, 5), 37, 3, norms="bias"),
]
STREAMED = case("streamed weights", (260, 3, 3), 131, 3, padding=1)
# Fibers take seconds a case: one of every kind of tile by default, the rest is slow.
TILES = ("low tiles, relu", "several groups, pooled", "narrow tiles, relu", "groups, relu")
ON_DEVICE = pytest.mark.parametrize(
    "case",
    [c if c.variant in TILES else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
    ids=[case_id(c) for c in CASES],
)
ON_CPU = pytest.mark.parametrize("case", [*CASES, STREAMED], ids=case_id)


def told(model: nn.Module, pairs: Pairs, **settings: object) -> str:
    return fastmaml.describe(model, *pairs, loss="mse", **settings)


# --- every pass -----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@ON_CPU
def test_passes_agree(case: OpCase, settings: dict[str, object]) -> None:
    model, pairs = case.model(), data(nn.MSELoss())
    text = told(model, pairs, inner_steps=1)
    assert "layer op.0: batch statistics in the convolution's epilogue, of both sets\n" in text
    check(model, pairs, loss=nn.MSELoss(), inner_lr=RATE, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@ON_CPU
def test_bits_depend_on_neither_threads_nor_neighbours(case: OpCase, dtype: torch.dtype) -> None:
    check_bits(case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "case", [c for c in [*CASES, STREAMED] if ", pooled" not in c.variant], ids=case_id
)
def test_bits_are_those_of_the_norms_own_sums(
    case: OpCase, dtype: torch.dtype, force: Force
) -> None:
    """On the CPU a norm without a pool sums the same groups in the same order by itself."""
    model, pairs = case.model(), data(nn.MSELoss())
    settings = {"loss": "mse", "inner_lr": RATE, "inner_steps": 2}
    for _ in every_set():
        found = []
        for least in (0, NEVER):
            force(moment_bytes=least)
            found.append(answer(model, pairs, dtype, fused=True, **settings))
        assert all(map(torch.equal, *found))


@ON_DEVICE
def test_device_code_agrees(case: OpCase) -> None:
    loss = nn.MSELoss()
    settings = {"loss": loss, "inner_lr": RATE, "inner_steps": 1}
    test_device_ops.check(case.model(), data(loss), **settings)


@ON_DEVICE
def test_bits_depend_on_neither_order_nor_team(case: OpCase) -> None:
    runs = [(ORDERS[0], 0), (ORDERS[1], TEAMS[-1]), (ORDERS[2], 1)]
    test_device_ops.same_bits(case, runs)


SOME = pytest.mark.parametrize(
    "case", [CASES[1], *(pytest.param(c, marks=pytest.mark.slow) for c in CASES[6:9])], ids=case_id
)


@SOME
def test_blocks_may_take_runs_of_the_rows_behind(case: OpCase, force: Force) -> None:
    force(run_pixels=7)
    loss = nn.MSELoss()
    settings = {"loss": loss, "inner_lr": RATE, "inner_steps": 1}
    test_device_ops.check(case.model(), data(loss), **settings)
    runs = [(ORDERS[0], 0), (ORDERS[1], TEAMS[-1]), (ORDERS[2], 1)]
    test_device_ops.same_bits(case, runs)
    test_device_races.check(case.model(), loss)


@SOME
def test_device_code_is_clean(case: OpCase) -> None:
    test_device_races.check(case.model(), nn.MSELoss())


@pytest.mark.parametrize(
    "case", [CASES[1], *(pytest.param(c, marks=pytest.mark.slow) for c in CASES[6:9])], ids=case_id
)
def test_tf32_is_clean(case: OpCase) -> None:
    with on_fibers(ORDERS[2], TEAMS[-1], "_simt_checked"):
        settings = {"loss": "mse", "inner_steps": 0, "precision": "tf32"}
        answer(case.model(), data(nn.MSELoss()), torch.float32, fused=True, **settings)


@ON_DEVICE
def test_tf32_agrees(case: OpCase) -> None:
    """Gradients but for the rounding of factors; in every order of threads and team the same."""
    model, pairs = case.model(), data(nn.MSELoss())
    settings = {"loss": "mse", "inner_lr": RATE, "inner_steps": 0}
    truth = answer(copy.deepcopy(model), pairs, torch.float64, fused=False, **settings)
    found = []
    for order, team in ((ORDERS[0], 0), (ORDERS[1], 7), (ORDERS[2], 1)):
        with on_fibers(order, team):
            found.append(
                answer(model, pairs, torch.float32, fused=True, precision="tf32", **settings)
            )
    assert_close(found[0].logits, truth.logits, "tf32")
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


# --- precision ------------------------------------------------------------------------------------


class Far(nn.Module):
    """A convolution that hands on what it is given, without rounding, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(40, 40, 1, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.head = nn.Linear(40 * 63, 3)
        nn.init.dirac_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.conv(x))).flatten(1))


def cancelling(x: Tensor) -> Tensor:
    """Variances as the mean of squares less the square of the mean."""
    return (x * x).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2


@pytest.mark.parametrize("fibers", [False, True], ids=["cpu", "device code"])
def test_a_large_mean_cancels_nothing(fibers: bool) -> None:
    """What remains is the rounding of the mean: linear in mean over spread, not in its square."""
    model, apart = Far(), 1000.0
    pairs = tuple(
        (apart + torch.randn(2, rows, 40, 9, 7), torch.rand(2, rows, 3)) for rows in (5, 4)
    )
    allowed = TOLERANCE["float32_ulps"] * torch.finfo(torch.float32).eps * (1 + apart)
    x = pairs[1][0][0]
    exact = x.double().var((0, 2, 3), correction=0)
    assert relative_error(cancelling(x), exact) > 10 * allowed
    settings = {"loss": "mse", "inner_steps": 0}
    assert "in the convolution's epilogue" in told(model, pairs, inner_steps=0)
    truth = answer(model, pairs, torch.float64, fused=False, **settings)
    with on_fibers() if fibers else nullcontext():
        ours = answer(model, pairs, torch.float32, fused=True, **settings)
    assert relative_error(ours.logits, truth.logits) <= allowed
    assert relative_error(ours.task_losses, truth.task_losses) <= allowed


# --- who leaves moments, and what they cost -------------------------------------------------------

DRAWS = torch.Generator().manual_seed(0)  # no test's: this is made before the first one
IMAGES = (
    torch.randn(2, 5, 3, 12, 12, generator=DRAWS),
    torch.rand(2, 5, 4, generator=DRAWS),
)


def network(*layers: nn.Module, outputs: int = 4) -> nn.Module:
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(outputs))
    model(IMAGES[0][0])
    return model


def test_only_a_norm_of_batch_statistics_is_left_any() -> None:
    conv, after = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
    for layers, any_left in (
        ((conv, after), True),
        ((conv, after, nn.ReLU(), nn.MaxPool2d(5)), False),  # a stem
        ((conv, nn.ReLU(), after), False),
        ((conv, copy.deepcopy(after).eval()), False),
        ((conv, nn.GroupNorm(2, 16)), False),
        ((conv, nn.Flatten(), nn.Unflatten(1, (16, 4, 25)), after), False),
        ((conv, nn.Flatten(), nn.Unflatten(1, (400, 2, 2)), nn.BatchNorm2d(400)), False),
    ):
        text = told(network(*layers), (IMAGES, IMAGES))
        assert (", moments of " in text) == any_left, layers
    thin = nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)
    text = told(network(*thin), (IMAGES, IMAGES))
    assert "layer 0: batch statistics by the norm's own sums\n" in text


def test_a_norm_of_other_rows_reads_them_itself() -> None:
    """One value that two norms read: as pixels of a channel, and as rows of numbers."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 3)
            self.pixels, self.rows = nn.BatchNorm2d(1), nn.BatchNorm1d(100)
            self.head = nn.Linear(100, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.head(self.pixels(y).flatten(1) + self.rows(y.flatten(1)))

    check(Two(), (IMAGES, IMAGES), loss=nn.MSELoss(), inner_lr=RATE, inner_steps=1)


def test_small_outputs_are_left_to_the_norm(force: Force) -> None:
    """In float32: 2.25 MiB from one set on, and from both."""
    force(moment_bytes=-1)
    model = network(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64))
    few, many = (torch.rand(1, rows, 3, 48, 48) for rows in (1, 4))
    settings = {"inner_steps": 1}

    def line(support: Tensor, query: Tensor) -> str:
        pairs = tuple((x, torch.rand(*x.shape[:2], 4)) for x in (support, query))
        (found,) = [s for s in told(model, pairs, **settings).splitlines() if "statistics" in s]
        return found.removeprefix("layer 0: batch statistics ")

    assert line(few, few) == "by the norm's own sums"
    assert line(few, many) == "in the convolution's epilogue, of the query set"
    assert line(many, few) == "in the convolution's epilogue, of the support set"
    assert line(many, many) == "in the convolution's epilogue, of both sets"


@pytest.mark.parametrize("recompute", [False, True])
def test_steps_made_again_have_the_same_bits(recompute: bool) -> None:
    model = network(nn.Conv2d(3, 37, 3), nn.BatchNorm2d(37), nn.ReLU(), nn.Conv2d(37, 5, 2))
    pairs = (IMAGES, IMAGES)
    settings = {"loss": "mse", "inner_lr": RATE, "inner_steps": 3}
    kept = answer(model, pairs, torch.float64, fused=True, **settings, recompute=recompute)
    truth = reference.meta_step(model, *((x.double(), y.double()) for x, y in pairs), **settings)
    assert_close(kept.logits, truth.logits, "meta_f64")
    again = answer(model, pairs, torch.float64, fused=True, **settings, recompute=not recompute)
    assert all(map(torch.equal, kept, again))


@pytest.mark.parametrize(("device", "rows_of_a_group"), [(False, 4096 // 8), (True, 32)])
def test_moments_cost_a_write_and_a_read(device: bool, rows_of_a_group: int) -> None:
    model = network(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    rows, tasks, channels = 7, 2, 8

    def cost(least: int) -> object:
        plan = CompiledPlan(
            trace(model, (3, 12, 12)),
            losses.resolve("mse"),
            PlanSettings(
                mode="evaluate",
                float64=False,
                support_rows=rows,
                query_rows=rows,
                inner_steps=0,
                first_order=True,
                rate_grad=False,
                winograd=0,
                moment_bytes=least,
                device=device,
            ),
        )
        return plan.device_cost(tasks, 0)

    left, own = cost(0), cost(NEVER)
    groups = -(-rows * 100 // rows_of_a_group)
    moments = 4 * tasks * groups * 2 * channels
    for kind, more in (("conv2d", moments), ("batch_norm", moments)):
        (with_them,) = [k for k in left.kinds if k.kind == kind]
        (without,) = [k for k in own.kinds if k.kind == kind]
        assert with_them.bytes - without.bytes == more
        assert with_them.flops == without.flops
    assert left.kernels == own.kernels
