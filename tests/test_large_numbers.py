"""Numbers beyond what a word or a float of the machine holds: taken as meant, or a clear error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fastmaml

DATA = torch.randn(2, 3, 4), torch.randint(3, (2, 3))
HUGE = 10**400


def model(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), *middle, nn.Linear(4, 3))


@pytest.mark.parametrize("limit", [2**63 - 1, 2**63, 2**64, HUGE], ids=["63", "64", "65", "huge"])
@pytest.mark.parametrize("call", ["meta_step", "meta_loss", "workspace_bytes", "describe", "adapt"])
def test_a_limit_that_no_machine_has(call: str, limit: int) -> None:
    sets = (DATA,) if call == "adapt" else (DATA, DATA)
    free = getattr(fastmaml, call)(model(), *sets)
    held = getattr(fastmaml, call)(model(), *sets, max_workspace_bytes=limit)
    if call in ("workspace_bytes", "describe"):
        assert held == free


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)],
    ids=["layer", "batch", "group"],
)
def test_eps_that_no_float_holds(norm: Any) -> None:
    norm.eps = HUGE
    with pytest.raises(fastmaml.UnsupportedModelError, match=r"with eps=1000.*\.\.\.") as refused:
        fastmaml.meta_step(model(norm), DATA, DATA, backend="fused")
    assert len(str(refused.value)) < 250
    with (
        pytest.warns(UserWarning, match="with eps=1000"),
        pytest.raises(OverflowError, match="int too large to convert to float"),
    ):
        fastmaml.meta_step(model(norm), DATA, DATA)


@pytest.mark.parametrize("smoothing", [HUGE, -HUGE])
def test_label_smoothing_that_no_float_holds(smoothing: Any) -> None:
    loss = nn.CrossEntropyLoss()
    loss.label_smoothing = smoothing
    with pytest.raises(fastmaml.SettingError, match=r"between 0 and 1, got -?1000"):
        fastmaml.meta_step(model(), DATA, DATA, loss=loss)


@pytest.mark.parametrize("tasks", [2**40 + 1, 2**62])
@pytest.mark.parametrize("call", ["meta_step", "workspace_bytes"])
def test_tasks_that_no_memory_holds(call: str, tasks: int) -> None:
    x = torch.zeros(1, 1, 1).expand(tasks, 1, 1)
    y = torch.zeros(1, 1, dtype=torch.int64).expand(tasks, 1)
    text = rf"^{call}: x must hold at most 1099511627776 tasks, got {tasks}; make several calls"
    with pytest.raises(fastmaml.SettingError, match=text):
        getattr(fastmaml, call)(nn.Linear(1, 3), (x, y), (x, y))
