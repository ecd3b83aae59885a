"""Contractions and convolutions on a device in every form and tile that their shapes can take.

The cases of test_ops are small, so that most tiles would never run: see csrc/cuda/tile_shape.hpp
and csrc/cuda/forms.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import test_device_ops
import test_device_races
import torch
from device_code import ORDERS, TEAMS, on_fibers
from forced import Force
from test_ops import RATE, Pairs, answer
from torch import nn

from fastmaml import ShapeError, losses
from fastmaml.engine.binding import CompiledPlan, PlanSettings
from fastmaml.tracing.trace import trace

TASKS = 2


def features(*sizes: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(*sizes), nn.Tanh(), nn.Linear(sizes[1], 2))


def images(inputs: int, outputs: int, kernel: int = 3) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        norm = nn.BatchNorm2d(outputs)
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(conv, norm, nn.Tanh(), pool, nn.Flatten(), nn.Linear(outputs, 2))

    return model


class Shape(NamedTuple):
    model: Callable[[], nn.Module]
    row: tuple[int, ...]
    rows: int = 5
    factored: int = 0


# Named after what their largest contraction takes; the others are smaller.
SHAPES = {
    "low tile": Shape(features(20, 70), (20,), 12),
    "middle tile": Shape(features(20, 70), (20,), 25),
    "small tile": Shape(features(20, 30), (20,), 40),
    "high tile": Shape(features(600, 70), (600,)),
    "narrow tile": Shape(features(1100, 20), (1100,)),
    "few rows, two chunks": Shape(features(300, 70), (300,)),
    "few rows, unaligned": Shape(features(37, 33), (37,), 3),
    "dots": Shape(features(131, 9), (131,), factored=1),
    "dots of many rows": Shape(features(70, 66), (70,), 26, factored=1),
    "images, high tile": Shape(images(2, 40), (2, 18, 18), 2),
    "images, narrow tile": Shape(images(2, 20), (2, 24, 24), 2),
    "images, middle tile": Shape(images(5, 40), (5, 5, 5), 2),
    "weights, high tile": Shape(images(72, 40), (72, 4, 3), 2),
    "weights, narrow tile": Shape(images(132, 20), (132, 4, 3), 2),
    "split high tile": Shape(features(600, 70), (600,), 260),
    "split narrow tile": Shape(features(1100, 20), (1100,), 259),
    "images, split high tile": Shape(images(32, 40), (32, 18, 18), 2),
    "images, split high tile, unaligned": Shape(images(30, 41), (30, 17, 19), 2),
    "images, split narrow tile": Shape(images(33, 20), (33, 24, 24), 2),
    "weights, split high tile": Shape(images(72, 40), (72, 11, 12), 2),
    "weights, split narrow tile": Shape(images(132, 20), (132, 12, 12), 2),
}
each_shape = pytest.mark.parametrize("name", SHAPES)


def data(shape: Shape) -> Pairs:
    return tuple(
        (torch.randn(TASKS, rows, *shape.row), torch.randn(TASKS, rows, 2))
        for rows in (shape.rows, 2)
    )


@pytest.fixture
def shape(name: str, force: Force) -> Shape:
    force(factored=SHAPES[name].factored)
    return SHAPES[name]


@each_shape
def test_tiles_agree(shape: Shape) -> None:
    settings = {"loss": nn.MSELoss(), "inner_lr": RATE, "inner_steps": 1}
    test_device_ops.check(shape.model(), data(shape), **settings)


@pytest.mark.slow
@each_shape
def test_bits_of_tiles_depend_on_neither_order_nor_team(shape: Shape) -> None:
    model, tasks = shape.model(), data(shape)
    settings = {"loss": nn.MSELoss(), "inner_lr": RATE, "inner_steps": 1}
    answers = []
    for order, team in [(ORDERS[0], 0), (ORDERS[1], TEAMS[-1]), (ORDERS[2], 1)]:
        with on_fibers(order, team):
            answers.append(answer(model, tasks, torch.float32, fused=True, **settings))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


@pytest.mark.slow
@each_shape
def test_tiles_are_clean(shape: Shape) -> None:
    test_device_races.check(shape.model(), nn.MSELoss(), data(shape))


def test_a_model_that_32_bits_cannot_count_is_refused() -> None:
    """Nothing of it is there: a plan needs shapes alone."""
    inputs, outputs = 1 << 16, 1 << 14
    network = trace(nn.Linear(inputs, outputs, bias=False, device="meta"), (inputs,))
    with on_fibers():
        plan = CompiledPlan(
            network, losses.resolve("mse"), PlanSettings(
                mode="meta_step", float64=False, support_rows=1, query_rows=1, inner_steps=1,
                first_order=False, rate_grad=False, factored=0, device=True,
            ),
        )  # fmt: skip
        with pytest.raises(ShapeError, match=r"must have fewer than 2\^30 parameters"):
            plan.plan.device_tables()
