"""Tensors that are adapted, trained, both or neither, against double backward in plain torch.

The roles are free of each other in the engine: the inner loop moves the adapted ones, the
meta-gradient is of the trained ones. What no adapted tensor stands below is computed once for each
set, and its backward pass runs once, on the sum of its cotangents over all steps.
"""

from __future__ import annotations

import pytest
import torch
from roles import (
    ADAPTED,
    BOTH,
    MODELS,
    TRAINED,
    T,
    agrees,
    case,
    definition,
    drawn,
    fused,
    plan,
    split,
)
from tolerances import assert_close


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("body", "head"), [(TRAINED, BOTH), (BOTH, TRAINED), (TRAINED, ADAPTED), (ADAPTED, TRAINED)]
)
def test_body_and_head(
    name: str, body: tuple[bool, bool], head: tuple[bool, bool], first_order: bool
) -> None:
    options = {"first_order": first_order, "rate_grad": True, "inner_steps": 3}
    agrees(case(name, split(name, body, head), **options))


@pytest.mark.parametrize("seed", range(60))
def test_any_roles(seed: int) -> None:
    agrees(drawn(seed))


@pytest.mark.slow
def test_many_roles() -> None:
    for seed in range(60, 1060):
        agrees(drawn(seed))


@pytest.mark.parametrize("name", MODELS)
def test_fast_weights_are_of_the_adapted(name: str) -> None:
    it = case(name, split(name, TRAINED, BOTH), first_order=True)
    found, expected = fused(it, "adapt"), definition(it)[3]
    assert len(found.tensors) == len(expected) == 2
    for mine, theirs in zip(found.tensors, expected.values(), strict=True):
        assert_close(mine, torch.stack(theirs), "meta_f64")


def test_what_does_not_step_runs_once_a_set() -> None:
    """A trained body below an adapted head: one forward and one backward pass for each set."""
    it = case("mlp", split("mlp", TRAINED, BOTH), inner_steps=5)
    text = plan(it, "meta_step").plan.describe(T, 1, 0)
    passes = [
        line.split("pointwise")[1].strip() for line in text.splitlines() if "pointwise" in line
    ]
    assert sorted(passes) == sorted(
        f"{set_} {layer}.{kind}"
        for set_ in ("step 0", "query")
        for layer in ("2", "4")
        for kind in ("forward", "backward")
    )
