"""Each op's device code against torch, pass by pass, on the host's fibers: cases of test_ops.

A meta-step of second order runs all four passes; the others, and most orders in which threads can
take turns, are slow tests.
"""

from __future__ import annotations

import pytest
import torch
from device_code import ORDERS, TEAMS, on_fibers
from op_case import OpCase
from op_cases import CASES, LOSSES, PASSES, Net, case_id, loss_id
from test_ops import RATE, Pairs, answer, data
from tolerances import assert_close, assert_float32
from torch import nn


def check(model: nn.Module, tasks: Pairs, **settings: object) -> None:
    """Assert that the device code agrees with the reference in double, and in single as well."""
    truth = answer(model, tasks, torch.float64, fused=False, **settings)
    torchs = answer(model, tasks, torch.float32, fused=False, **settings)
    with on_fibers():
        double = answer(model, tasks, torch.float64, fused=True, **settings)
        single = answer(model, tasks, torch.float32, fused=True, **settings)
    for actual, expected in zip(double, truth, strict=True):
        assert_close(actual, expected, "op_f64")
    for actual, expected, exact in zip(single, torchs, truth, strict=True):
        assert_float32(actual, expected, exact)


# Of many products: tens of seconds on fibers.
HEAVY = {"conv2d many channels", "conv2d many channels, one tap", "stem in strips"}
ALL = [pytest.param(c, marks=pytest.mark.slow) if case_id(c) in HEAVY else c for c in CASES]
*PARTS, WHOLE = PASSES


@pytest.mark.parametrize("settings", [PASSES[WHOLE]], ids=[WHOLE])
@pytest.mark.parametrize("case", ALL, ids=[case_id(c) for c in CASES])
def test_op_agrees(case: OpCase, settings: dict[str, object]) -> None:
    loss = nn.MSELoss()
    check(case.model(), data(loss), loss=loss, inner_lr=RATE, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [PASSES[p] for p in PARTS], ids=PARTS)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_op_agrees_pass_by_pass(case: OpCase, settings: dict[str, object]) -> None:
    test_op_agrees(case, settings)


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("loss", LOSSES, ids=loss_id)
def test_loss_agrees(loss: nn.Module, settings: dict[str, object]) -> None:
    check(Net(torch.tanh), data(loss), loss=loss, inner_lr=RATE, **settings)


def same_bits(case: OpCase, runs: list[tuple[tuple[str, int], int]]) -> None:
    """Assert that all orders of threads and numbers of blocks give the same bits."""
    model, loss = case.model(), nn.MSELoss()
    tasks, settings = data(loss), {"loss": loss, "inner_lr": RATE, "inner_steps": 1}
    answers = []
    for order, team in runs:
        with on_fibers(order, team):
            answers.append(answer(model, tasks, torch.float32, fused=True, **settings))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


@pytest.mark.parametrize("case", ALL, ids=[case_id(c) for c in CASES])
def test_bits_depend_on_neither_order_nor_team(case: OpCase) -> None:
    same_bits(case, [(ORDERS[0], 0), (ORDERS[1], TEAMS[-1]), (ORDERS[2], 1)])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_bits_depend_on_no_order_and_no_team(case: OpCase) -> None:
    same_bits(case, [*((o, 0) for o in ORDERS), *((ORDERS[0], t) for t in TEAMS[1:])])
