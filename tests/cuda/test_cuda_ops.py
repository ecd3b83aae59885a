"""Each op on a CUDA device against torch on the host: the cases of test_ops, pass by pass."""

from __future__ import annotations

import pytest
import test_device_tiles as tiles
import torch
from forced import Force
from op_case import OpCase
from op_cases import CASES, LOSSES, PASSES, Net, case_id, loss_id
from place import Place
from test_ops import RATE, Pairs, answer, data
from tolerances import assert_close, assert_float32
from torch import nn

pytestmark = pytest.mark.cuda

TEAMS = [1, 2, 7]  # blocks that share a task
LONG = ("conv2d", "stem", "batch_norm")  # they sum over pixels in runs
SUMS = [case for case in CASES if case.op in LONG]


def check(place: Place, model: nn.Module, tasks: Pairs, **settings: object) -> None:
    """Assert agreement with the reference in double, and in single as near as torch on the host."""
    truth = answer(model, tasks, torch.float64, fused=False, **settings)
    torchs = answer(model, tasks, torch.float32, fused=False, **settings)
    double = place.answer(model, tasks, torch.float64, **settings)
    single = place.answer(model, tasks, torch.float32, **settings)
    for actual, expected in zip(double, truth, strict=True):
        assert_close(actual, expected, "op_f64")
    for actual, expected, exact in zip(single, torchs, truth, strict=True):
        assert_float32(actual, expected, exact)


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_op_agrees(case: OpCase, settings: dict[str, object], place: Place) -> None:
    loss = nn.MSELoss()
    check(place, case.model(), data(loss), loss=loss, inner_lr=RATE, **settings)


@pytest.mark.parametrize("case", SUMS, ids=case_id)
def test_short_runs_of_pixels_agree(case: OpCase, place: Place, force: Force) -> None:
    force(run_pixels=7)
    loss = nn.MSELoss()
    check(place, case.model(), data(loss), loss=loss, inner_lr=RATE, inner_steps=2)


@tiles.each_shape
def test_tiles_agree(name: str, place: Place, force: Force) -> None:
    shape = tiles.SHAPES[name]
    force(factored=shape.factored)
    loss = nn.MSELoss()
    check(place, shape.model(), tiles.data(shape), loss=loss, inner_lr=RATE, inner_steps=1)


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("loss", LOSSES, ids=loss_id)
def test_loss_agrees(loss: nn.Module, settings: dict[str, object], place: Place) -> None:
    check(place, Net(torch.tanh), data(loss), loss=loss, inner_lr=RATE, **settings)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_bits_depend_on_neither_repetition_nor_team(
    case: OpCase, place: Place, force: Force
) -> None:
    model, loss = case.model(), nn.MSELoss()
    tasks, settings = data(loss), {"loss": loss, "inner_lr": RATE, "inner_steps": 2}
    answers = []
    for team in (0, 0, 0, *TEAMS):
        force(team=team)
        answers.append(place.answer(model, tasks, torch.float32, **settings))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))
