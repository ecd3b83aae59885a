"""Warnings of why PyTorch runs: every reason that is known, at the caller's line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small import regression
from torch import Tensor, nn

import fastmaml
from fastmaml import notices


def test_a_loss_hides_no_other_reason() -> None:
    data = regression()

    def absolute(logits: Tensor, y: Tensor) -> Tensor:
        return (logits - y).abs().mean()

    for layer, name in ((nn.SELU(), "SELU"), (nn.Softsign(), "Softsign")):
        notices._SAID.pop(nn.Sequential, None)
        model = nn.Sequential(nn.Linear(2, 1), layer)
        reason = rf"cannot take loss `absolute`; and layer `1` \(torch\.nn\.{name}\)\.$"
        with pytest.warns(UserWarning, match=reason):
            fastmaml.meta_step(model, *data, loss=absolute)


def test_warnings_point_at_the_caller() -> None:
    model, data = nn.Sequential(nn.Linear(2, 1), nn.SELU()), regression()
    calls: list[Callable[[], object]] = [
        lambda: fastmaml.meta_step(model, *data, loss="mse"),
        lambda: fastmaml.adapt(model, data[0], loss="mse"),
        lambda: fastmaml.evaluate(model, [data], inner_steps=1, loss="mse"),
    ]
    for call in calls:
        notices._SAID.pop(nn.Sequential, None)
        with pytest.warns(UserWarning, match="runs on the slower") as told:
            call()
        assert [warning.filename for warning in told] == [__file__]
