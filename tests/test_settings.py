"""The settings of a call: what passes, and the text of everything that does not."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from fastmaml.errors import SettingError
from fastmaml.settings import check_settings


@pytest.mark.parametrize("rate", [0.4, 0, -1, np.float32(0.5), np.int64(2), Fraction(1, 4)])
def test_rates_are_numbers(rate: Any) -> None:
    settings = check_settings("meta_step", "mse", rate, 1, False)
    assert type(settings.inner_lr) is float
    assert settings.inner_lr == float(rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("learned", [True, False])
def test_rates_are_tensors(dtype: torch.dtype, learned: bool) -> None:
    rate = torch.tensor(0.4, dtype=dtype, requires_grad=learned)
    assert check_settings("meta_step", "mse", rate, 1, False).inner_lr is rate


@pytest.mark.parametrize("steps", [0, 7, np.int32(3), np.int64(2), torch.tensor(2)])
def test_steps_are_integers(steps: Any) -> None:
    settings = check_settings("meta_step", "mse", 0.1, steps, True)
    assert type(settings.inner_steps) is int
    assert settings.inner_steps == steps


_RANGE = "inner_steps must be between 0 and 10000, "
SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"inner_steps": -1}, _RANGE + "got -1; 0 is the plain query gradient."),
    ({"inner_steps": 10**6}, _RANGE + "got 1000000; 0 is the plain query gradient."),
    ({"inner_steps": 1.0}, "inner_steps must be an integer >= 0, got 1.0; pass an int."),
    ({"inner_steps": True}, "inner_steps must be an integer >= 0, got True; pass an int."),
    (
        {"inner_steps": np.float64(2)},
        "inner_steps must be an integer >= 0, got np.float64(2.0); pass an int.",
    ),
    (
        {"inner_steps": np.array([1, 2])},
        "inner_steps must be an integer >= 0, got array([1, 2]); pass an int.",
    ),
    (
        {"inner_steps": torch.tensor(True)},
        "inner_steps must be an integer >= 0, got tensor(True); pass an int.",
    ),
    ({"inner_steps": None}, "inner_steps must be an integer >= 0, got None; pass an int."),
    ({"inner_lr": float("nan")}, "inner_lr must be finite, got nan."),
    ({"inner_lr": float("inf")}, "inner_lr must be finite, got inf."),
    ({"inner_lr": torch.tensor(-float("inf"))}, "inner_lr must be finite, got -inf."),
    (
        {"inner_lr": True},
        "inner_lr must be a number or a 0-dim floating-point tensor, got bool.",
    ),
    (
        {"inner_lr": "0.1"},
        "inner_lr must be a number or a 0-dim floating-point tensor, got str.",
    ),
    (
        {"inner_lr": {"weight": 0.1}},
        "inner_lr must be a number or a 0-dim floating-point tensor, got dict.",
    ),
    (
        {"inner_lr": torch.ones(3)},
        "inner_lr must be a number or a 0-dim floating-point tensor, got a tensor [3] of "
        "torch.float32.",
    ),
    (
        {"inner_lr": torch.tensor(1)},
        "inner_lr must be a number or a 0-dim floating-point tensor, got a tensor [] of "
        "torch.int64.",
    ),
    ({"first_order": 1}, "first_order must be True or False, got 1."),
    ({"first_order": None}, "first_order must be True or False, got None."),
]


@pytest.mark.parametrize(("changed", "text"), SETTINGS)
def test_settings(changed: dict[str, Any], text: str) -> None:
    given = {"loss": "mse", "inner_lr": 0.1, "inner_steps": 1, "first_order": False} | changed
    with pytest.raises(SettingError, match=f"^meta_step: {re.escape(text)}$"):
        check_settings("meta_step", **given)
