"""Each op's device code against torch, pass by pass, on the host's fibers: the cases of test_ops."""

from __future__ import annotations

import pytest
import torch
from device_code import ORDERS, TEAMS, on_fibers
from op_case import OpCase
from op_cases import CASES, LOSSES, PASSES, Net, case_id, loss_id
from test_ops import RATE, Pairs, answer, data
from tolerances import assert_close, assert_float32
from torch import nn


def check(patch: pytest.MonkeyPatch, model: nn.Module, tasks: Pairs, **settings: object) -> None:
    """Assert that the device code agrees with the reference in double, and in single as well."""
    truth = answer(model, tasks, torch.float64, fused=False, **settings)
    torchs = answer(model, tasks, torch.float32, fused=False, **settings)
    with on_fibers(patch):
        double = answer(model, tasks, torch.float64, fused=True, **settings)
        single = answer(model, tasks, torch.float32, fused=True, **settings)
    for actual, expected in zip(double, truth, strict=True):
        assert_close(actual, expected, "op_f64")
    for actual, expected, exact in zip(single, torchs, truth, strict=True):
        assert_float32(actual, expected, exact)


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_op_agrees(
    case: OpCase, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = nn.MSELoss()
    check(monkeypatch, case.model(), data(loss), loss=loss, inner_lr=RATE, **settings)


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("loss", LOSSES, ids=loss_id)
def test_loss_agrees(
    loss: nn.Module, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(monkeypatch, Net(torch.tanh), data(loss), loss=loss, inner_lr=RATE, **settings)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_bits_depend_on_neither_order_nor_team(
    case: OpCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loss = case.model(), nn.MSELoss()
    tasks, settings = data(loss), {"loss": loss, "inner_lr": RATE, "inner_steps": 1}
    answers = []
    for order, team in [*((o, 0) for o in ORDERS), *((ORDERS[0], t) for t in TEAMS[1:])]:
        with on_fibers(monkeypatch, order, team):
            answers.append(answer(model, tasks, torch.float32, fused=True, **settings))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))
