"""Each op's device code under the checker of bounds and races: the cases of test_ops."""

from __future__ import annotations

import pytest
import torch
from device_code import ORDERS, TEAMS, on_fibers
from op_case import OpCase
from op_cases import CASES, LOSSES, Net, case_id, loss_id
from test_ops import RATE, Pairs, answer, data
from torch import nn

RUNS = [
    (torch.float32, ORDERS[0], TEAMS[0]),
    (torch.float32, ORDERS[2], TEAMS[-1]),
    (torch.float64, ORDERS[2], TEAMS[0]),
]
# A hook before every access takes seconds a case: every op once by default, the rest is slow.
FIRST = {case.op: case for case in reversed(CASES) if case.op != "stem"}.values()
ALL = [c if c in FIRST else pytest.param(c, marks=pytest.mark.slow) for c in CASES]


def check(model: nn.Module, loss: nn.Module, tasks: Pairs | None = None) -> None:
    """Run every pass of a meta-step of second order; the checker raises BackendError."""
    tasks = data(loss) if tasks is None else tasks
    for dtype, order, team in RUNS:
        with on_fibers(order, team, "_simt_checked") as module:
            before = sum(module.simt.counts().values())
            answer(model, tasks, dtype, fused=True, loss=loss, inner_lr=RATE, inner_steps=1)
            assert sum(module.simt.counts().values()) > before


@pytest.mark.parametrize("case", ALL, ids=[case_id(c) for c in CASES])
def test_op_is_clean(case: OpCase) -> None:
    check(case.model(), nn.MSELoss())


@pytest.mark.parametrize("loss", LOSSES, ids=loss_id)
def test_loss_is_clean(loss: nn.Module) -> None:
    check(Net(torch.tanh), loss)
