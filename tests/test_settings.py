"""The settings of a call: what passes, and the text of everything that does not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from small import classification, network

import fastmaml
from fastmaml import reference
from fastmaml.calls.meta import query_losses
from fastmaml.errors import SettingError
from fastmaml.settings import DEFAULTS, Options, check_options

CALLS: dict[str, Callable[..., Any]] = {
    "meta_step": fastmaml.meta_step,
    "meta_loss": fastmaml.meta_loss,
    "adapt": fastmaml.adapt,
    "evaluate": fastmaml.evaluate,
    "verify": fastmaml.verify,
    "describe": fastmaml.describe,
    "workspace_bytes": fastmaml.workspace_bytes,
    "query_losses": query_losses,
    "reference.meta_step": reference.meta_step,
    "reference.meta_loss": reference.meta_loss,
    "reference.adapt": reference.adapt,
}


def keywords(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(call).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def test_one_call_takes_all_options() -> None:
    assert [*keywords(fastmaml.meta_step)] == [*DEFAULTS] == [*get_type_hints(Options)]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_take_options_as_they_are_declared(call: Callable[..., Any]) -> None:
    declared, hints = get_type_hints(Options), get_type_hints(call)
    taken = keywords(call)
    assert {n: hints[n] for n in taken} == {n: declared[n] for n in taken}
    given: dict[str, Any] = {**DEFAULTS}
    if call is fastmaml.evaluate:
        given["inner_steps"] = inspect.Parameter.empty
    assert {n: p.default for n, p in taken.items()} == {n: given[n] for n in taken}


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, call in CALLS.items() for option in keywords(call)],
)
def test_calls_look_at_the_options_that_they_take(name: str, option: str) -> None:
    support, query = classification()
    model, call = network().float(), CALLS[name]
    data: list[Any] = [support] if "adapt" in name else [support, query]
    given: dict[str, Any] = {option: object()}
    if name == "evaluate":
        data = [[(support, query)]]
        given.setdefault("inner_steps", 1)
    with pytest.raises(SettingError, match=f"^{name.split('.')[-1]}: {option} must be "):
        call(model, *data, **given)


@pytest.mark.parametrize("rate", [0.4, 0, -1, np.float32(0.5), np.int64(2), Fraction(1, 4)])
def test_rates_are_numbers(rate: Any) -> None:
    settings = check_options("meta_step", {"inner_lr": rate})
    assert type(settings.inner_lr) is float
    assert settings.inner_lr == float(rate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("learned", [True, False])
def test_rates_are_tensors(dtype: torch.dtype, learned: bool) -> None:
    rate = torch.tensor(0.4, dtype=dtype, requires_grad=learned)
    assert check_options("meta_step", {"inner_lr": rate}).inner_lr is rate


@pytest.mark.parametrize("steps", [0, 7, np.int32(3), np.int64(2), torch.tensor(2)])
def test_steps_are_integers(steps: Any) -> None:
    settings = check_options("meta_step", {"inner_steps": steps})
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
    given: Any = {"loss": "mse", "inner_lr": 0.1, "inner_steps": 1, "first_order": False} | changed
    with pytest.raises(SettingError, match=f"^meta_step: {re.escape(text)}$"):
        check_options("meta_step", given)
