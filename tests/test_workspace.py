"""recompute= and max_workspace_bytes: the same bits in less memory, or an error with its size."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from forced import Force
from torch import Tensor, nn

import fastmaml
from fastmaml import models
from fastmaml.engine import memory
from fastmaml.settings import Memory, check_options

STEPS = 4


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 200), nn.GELU(),
        nn.Linear(200, 3),
    )  # fmt: skip


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.LeakyReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(72, 3),
    )  # fmt: skip


def norms_alone() -> nn.Module:
    """All else is frozen: norms whose input no step moves, one of them pooled."""
    model = convolutions()
    for layer in (model[0], model[4]):
        layer.requires_grad_(False)
    return model


def norm_first() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 3))


def norm_of_frozen() -> nn.Module:
    model = mlp()
    model[0].requires_grad_(False)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "convolutions": (convolutions, (1, 12, 12)),
    "norms alone": (norms_alone, (1, 12, 12)),
    "norm first": (norm_first, (6,)),
    "norm of frozen": (norm_of_frozen, (6,)),
}
Pair = tuple[Tensor, Tensor]


def tasks(row: tuple[int, ...], count: int = 5) -> tuple[Pair, Pair]:
    def draw(rows: int) -> Pair:
        return torch.randn(count, rows, *row), torch.randint(3, (count, rows))

    return draw(4), draw(6)


def gradients(model: nn.Module, data: tuple[Pair, Pair], **settings: Any) -> list[Tensor]:
    model.zero_grad()
    fastmaml.meta_step(model, *data, inner_lr=0.05, inner_steps=STEPS, backend="fused", **settings)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("factored", [0, 1])
def test_recomputation_changes_no_bit(name: str, factored: int, force: Force) -> None:
    force(factored=factored)
    make, row = MODELS[name]
    model, data = make(), tasks(row)
    kept = gradients(model, data, recompute=False)
    assert all(map(torch.equal, kept, gradients(model, data, recompute=True)))
    assert len(kept) == sum(p.requires_grad for p in model.parameters())
    assert all(g.abs().sum() > 0 for g in kept[-2:])


def test_recomputation_keeps_the_learning_rates_gradient() -> None:
    model, data = mlp(), tasks((6,))
    found = []
    for recompute, first_order in ((False, False), (True, False), (False, True), (True, True)):
        rate = torch.tensor(0.05, requires_grad=True)
        fastmaml.meta_step(
            model, *data, inner_lr=rate, inner_steps=3, first_order=first_order,
            recompute=recompute, backend="fused",
        )  # fmt: skip
        assert rate.grad is not None
        found.append(rate.grad)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_no_limit_changes_a_bit(threads: int) -> None:
    make, row = MODELS["convolutions"]
    model, data = make(), tasks(row)
    torch.set_num_threads(1)
    free = gradients(model, data)
    torch.set_num_threads(threads)
    settings = {"inner_lr": 0.05, "inner_steps": STEPS}
    wide = fastmaml.workspace_bytes(model, *data, **settings, recompute=False)
    limits = [wide, wide - 1, wide // 2]
    for limit in limits:
        try:
            used = fastmaml.workspace_bytes(model, *data, **settings, max_workspace_bytes=limit)
        except fastmaml.SettingError:
            assert limit < wide // 2 + 1
            continue
        assert used <= limit
        assert all(map(torch.equal, free, gradients(model, data, max_workspace_bytes=limit)))


def test_fewer_lanes_and_recomputation_take_less() -> None:
    make, row = MODELS["convolutions"]
    model, data = make(), tasks(row)
    torch.set_num_threads(2)
    settings: dict[str, Any] = {"inner_lr": 0.05, "inner_steps": STEPS}

    def needed(**more: Any) -> int:
        return fastmaml.workspace_bytes(model, *data, **settings, **more)

    kept, again = needed(recompute=False), needed(recompute=True)
    assert again < kept
    assert needed() == kept
    assert needed(max_workspace_bytes=kept - 1) == again
    text = fastmaml.describe(model, *data, **settings, max_workspace_bytes=kept - 1)
    assert "activations: recomputed for each inner step of the sweep\n" in text
    found = re.search(r"^workspace (\d+) bytes.*\nprogram (\d+) bytes$", text, re.MULTILINE)
    assert found is not None
    assert sum(map(int, found.groups())) == again
    alone = needed(recompute=True, max_workspace_bytes=again - 1)
    assert alone < again
    text = fastmaml.describe(model, *data, **settings, max_workspace_bytes=alone)
    assert "1 lanes\n" in text
    assert "activations: kept of all inner steps\n" in fastmaml.describe(model, *data, **settings)


def test_a_limit_that_nothing_keeps_to_is_an_error() -> None:
    model, data = mlp(), tasks((6,))
    for call, pairs in (
        (fastmaml.meta_step, data),
        (fastmaml.meta_loss, data),
        (fastmaml.workspace_bytes, data),
        (fastmaml.describe, data),
        (fastmaml.adapt, data[:1]),
    ):
        with pytest.raises(fastmaml.SettingError) as caught:
            call(model, *pairs, max_workspace_bytes=1000)
        found = re.fullmatch(
            rf"{call.__name__}: max_workspace_bytes must be at least (\d+) for this call, \d+ of "
            r"them for its program, got 1000; raise it or give fewer inner steps, tasks, rows a "
            r"task or threads\.",
            str(caught.value),
        )
        assert found is not None
        call(model, *pairs, max_workspace_bytes=int(found[1]))
    with pytest.raises(fastmaml.SettingError, match=r'raise it, pass recompute="auto" or give'):
        fastmaml.meta_step(model, *data, max_workspace_bytes=1000, recompute=False)
    model.zero_grad()
    with pytest.raises(fastmaml.SettingError):
        fastmaml.meta_step(model, *data, max_workspace_bytes=1000)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"recompute": "yes"}, "recompute must be True, False or \"auto\", got 'yes'"),
        ({"recompute": 1.0}, 'recompute must be True, False or "auto", got 1.0'),
        ({"recompute": 1}, 'recompute must be True, False or "auto", got 1'),
        ({"recompute": None}, 'recompute must be True, False or "auto", got None'),
        ({"max_workspace_bytes": 0}, "max_workspace_bytes must be at least 1, got 0"),
        ({"max_workspace_bytes": 1e9}, "max_workspace_bytes must be an integer >= 1, got 1000000"),
        ({"max_workspace_bytes": True}, "max_workspace_bytes must be an integer >= 1, got True"),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", [fastmaml.meta_step, fastmaml.meta_loss, fastmaml.describe])
def test_settings_are_checked(call: Any, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(fastmaml.SettingError, match=rf"{call.__name__}: {re.escape(text)}"):
        call(mlp(), *tasks((6,)), **settings)


def test_numbers_of_other_types_are_limits() -> None:
    given: Any = {"recompute": True, "max_workspace_bytes": np.int64(5)}
    assert check_options("meta_step", given).memory == Memory(True, 5)


def test_without_a_limit_half_of_the_machine_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = mlp(), tasks((6,))
    settings: dict[str, Any] = {"inner_steps": STEPS}
    free = fastmaml.workspace_bytes(model, *data, **settings)
    smallest = fastmaml.workspace_bytes(model, *data, **settings, max_workspace_bytes=free - 1)
    assert smallest < free
    monkeypatch.setattr(memory, "_half_of_memory", lambda device: 1)
    other, pairs = mlp(), tasks((6,))
    assert fastmaml.workspace_bytes(other, *pairs, **settings) <= smallest


def test_the_reference_has_no_workspace() -> None:
    data = tasks((6,))
    with pytest.raises(fastmaml.UnsupportedModelError):
        fastmaml.workspace_bytes(nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)), *data)
    result = fastmaml.meta_step(mlp(), *data, backend="reference", max_workspace_bytes=1)
    assert result.backend == "reference"


def test_the_miniimagenet_network_runs_in_64_mib() -> None:
    torch.set_num_threads(2)
    model = models.conv4(5)
    x, query = torch.rand(1, 5, 3, 84, 84), torch.rand(1, 75, 3, 84, 84)
    y = torch.arange(5)[None]
    data = (x, y), (query, torch.arange(75)[None] % 5)
    settings: dict[str, Any] = {"inner_lr": 0.01, "inner_steps": 5}
    assert fastmaml.workspace_bytes(model, *data, **settings) > 64 << 20
    limited = fastmaml.workspace_bytes(model, *data, **settings, max_workspace_bytes=64 << 20)
    assert limited <= 64 << 20
    one = gradients_of(model, data, settings)
    assert all(map(torch.equal, one, gradients_of(model, data, settings, 64 << 20)))


def gradients_of(
    model: nn.Module, data: tuple[Pair, Pair], settings: dict[str, Any], limit: int | None = None
) -> list[Tensor]:
    model.zero_grad()
    fastmaml.meta_step(model, *data, **settings, backend="fused", max_workspace_bytes=limit)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]
