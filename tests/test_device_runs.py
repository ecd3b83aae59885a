"""Long sums over pixels as devices cut them, into runs and chunks: forced to be short."""

from __future__ import annotations

from itertools import pairwise

import pytest
import test_device_ops
import test_device_races
import torch
from device_code import ORDERS, TEAMS
from forced import Force
from op_case import OpCase
from op_cases import CASES, case_id
from test_ops import RATE, data
from torch import nn

from fastmaml import InternalError, SettingError, losses
from fastmaml.engine.binding import CompiledPlan, PlanSettings
from fastmaml.tasks import Tasks
from fastmaml.tracing.trace import trace

# Images of the cases have some forty pixels: neither their number nor a chunk's is a multiple.
RUN_PIXELS = 7
FIRST = {"conv2d bias", "conv2d stride and padding", "conv2d twice", "stem same", "stem strided"}
FIRST |= {"batch_norm images, batch", "batch_norm pooled, batch"}
LONG = {"conv2d many channels", "conv2d many channels, one tap", "stem in strips"}
OPS = ("conv2d", "stem", "batch_norm")
SUMS = [case for case in CASES if case.op in OPS and case_id(case) not in LONG]
ALL = [c if case_id(c) in FIRST else pytest.param(c, marks=pytest.mark.slow) for c in SUMS]
each_sum = pytest.mark.parametrize("case", ALL, ids=[case_id(c) for c in SUMS])


@pytest.fixture(autouse=True)
def _short_runs(force: Force) -> None:
    force(run_pixels=RUN_PIXELS)


@each_sum
def test_runs_agree(case: OpCase) -> None:
    loss = nn.MSELoss()
    settings = {"loss": loss, "inner_lr": RATE, "inner_steps": 2}
    test_device_ops.check(case.model(), data(loss), **settings)


@each_sum
def test_bits_of_runs_depend_on_neither_order_nor_team(case: OpCase) -> None:
    runs = [(ORDERS[0], 0), (ORDERS[1], TEAMS[-1]), (ORDERS[2], 1)]
    test_device_ops.same_bits(case, runs)


@each_sum
def test_runs_are_clean(case: OpCase) -> None:
    test_device_races.check(case.model(), nn.MSELoss())


CONV = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
ROWS, SIDE = 4, 5  # nine pixels of output each


def plan(*, device: bool, run_pixels: int, model: nn.Module = CONV) -> CompiledPlan:
    return CompiledPlan(
        trace(model, (1, SIDE, SIDE)),
        losses.resolve("mse"),
        PlanSettings(
            mode="meta_step",
            float64=False,
            support_rows=ROWS,
            query_rows=ROWS,
            inner_steps=1,
            first_order=True,
            rate_grad=False,
            device=device,
            run_pixels=run_pixels,
        ),
    )


def test_runs_cost_a_write_and_a_read_of_each_partial_sum() -> None:
    whole, cut = (plan(device=True, run_pixels=p).device_cost(1, 0) for p in (37, 12))
    weight, bias, runs, passes = 2 * 9, 2, 3, 2  # passes: of the inner step and the query
    assert cut.kernels - whole.kernels == passes * 2  # one sums the runs of each
    # A sum reads the 1 that it multiplies by; the contraction's flops are of the runs added up.
    partial = sum(4 * (2 * runs * numbers + 1) for numbers in (weight, bias))
    assert cut.bytes - whole.bytes == passes * partial
    assert cut.flops - whole.flops == passes * 2 * runs * (weight + bias)


@pytest.mark.parametrize("first", [[], [nn.GroupNorm(1, 1)]], ids=["of data", "of a layer"])
def test_runs_of_a_norm_cost_a_second_read(first: list[nn.Module]) -> None:
    rows, runs, passes = ROWS * SIDE * SIDE, 4, 2  # forward and backward in the step and the query
    model = nn.Sequential(*first, nn.BatchNorm2d(1), nn.Flatten())
    whole, cut = (
        plan(device=True, run_pixels=p, model=model).device_cost(1, 0) for p in (rows, rows // runs)
    )
    assert cut.kernels - whole.kernels == 2 * passes
    # Of data only the sums are wanted: the pass itself then reads neither x nor the cotangent.
    forward, backward = rows, (2 * rows if first else 0) + 3
    sums = 2 * (2 * runs)  # written and read
    assert cut.bytes - whole.bytes == 4 * passes * (forward + backward + 2 * sums)


def test_run_lengths_change_the_program_for_devices_alone() -> None:
    kernels = [plan(device=False, run_pixels=p).device_cost(1, 0).kernels for p in (37, 12, 1)]
    assert all(a == b for a, b in pairwise(kernels))


def test_a_program_for_devices_runs_on_no_cpu() -> None:
    made = plan(device=True, run_pixels=12)
    x, y = torch.rand(1, ROWS, 1, SIDE, SIDE), torch.rand(1, ROWS, 18)
    tasks = Tasks(x, y, x, y, 1, ROWS, ROWS, (1, SIDE, SIDE))
    for run in (made.run, made.profile):
        with pytest.raises(InternalError, match="the program is for a device, and the call names"):
            run(tasks, list(CONV.parameters()), 0.1)


def test_run_lengths_are_positive() -> None:
    with pytest.raises(SettingError, match="run_pixels must be at least 1, got 0"):
        plan(device=True, run_pixels=0)
