"""No random forward is silently wrong: right on either backend, or refused in a sentence."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from random_forwards import change, make, meta_gradient
from tolerances import within
from torch import Tensor, nn

import fastmaml

pytestmark = pytest.mark.filterwarnings("ignore:.*runs on the slower:UserWarning")


def data(seed: int) -> Any:
    draw = torch.Generator().manual_seed(seed)
    rows = 2 + seed % 5

    def pair(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(2, count, 4, generator=draw, dtype=torch.float64)
        return x, torch.randint(3, (2, count), generator=draw)

    return pair(rows), pair(2 + seed % 3)


def flat(grads: dict[str, Tensor]) -> Tensor:
    return torch.cat([grads[name].flatten() for name in sorted(grads)] or [torch.zeros(1)])


def outcome(model: nn.Module, pairs: Any, steps: int) -> str:
    """What a call came to: its backend, "refused", or what was wrong."""
    try:
        losses, expected = meta_gradient(model, *pairs, 0.3, steps)
    except Exception:
        return "no loop"
    state, kept = copy.deepcopy(vars(model)), vars(model)["kept"]
    model.zero_grad()
    try:
        result = fastmaml.meta_step(model, *pairs, inner_lr=0.3, inner_steps=steps)
    except (fastmaml.UnsupportedModelError, fastmaml.SettingError):
        return "refused"
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name in ("count", "config", "training"):
        if vars(model)[name] != state[name]:
            return f"changed {name}"
    if vars(model)["args"].turns != state["args"].turns or vars(model)["kept"] is not kept:
        return "changed args or kept"
    # A gradient that is zero but for rounding may be there or not.
    for name, grad in grads.items():
        expected.setdefault(name, torch.zeros_like(grad))
    for name, grad in expected.items():
        grads.setdefault(name, torch.zeros_like(grad))
    if not within(result.task_losses, losses) or not within(flat(grads), flat(expected)):
        return f"wrong on {result.backend}"
    return result.backend


def check(seeds: range) -> Counter[str]:
    counted: Counter[str] = Counter()
    for seed in seeds:
        model, pairs, steps = make(seed), data(seed), seed % 3
        for call in range(3):
            came = outcome(model, pairs, steps)
            counted[came] += 1
            assert came in ("fused", "reference", "refused", "no loop"), (seed, call, came)
            change(model, seed + call)
    return counted


def test_random_forwards() -> None:
    counted = check(range(150))
    assert counted["fused"] > 50
    assert counted["reference"] > 100


@pytest.mark.slow
def test_many_random_forwards() -> None:
    counted = check(range(1000, 6000))
    assert counted["fused"] > 1000
