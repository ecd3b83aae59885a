"""The benchmark of first calls and of what they leave: every part is timed, every kind measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import __main__ as command
from benchmarks import first_call


def test_every_part_of_a_first_call_is_timed() -> None:
    case = first_call.cases(quick=True)[1]
    assert min(first_call.time_first_call(case, 1)) > 0


def test_the_command_prints_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["first-call", "--quick"]) == 0
    text = capsys.readouterr().out
    for case in first_call.cases(quick=True):
        assert f"{case.title}, {case.inner_steps} step" in text
    assert "3 Conv4 models, alive" in text


def test_growth_sees_what_is_held() -> None:
    held = 64 << 20
    alive, released = first_call.growth(lambda size: torch.ones(size, dtype=torch.uint8), held)
    assert alive > 60
    assert released < alive - 60


def test_the_full_run_has_the_networks_it_names() -> None:
    layers = {
        case.title: sum(isinstance(m, nn.Linear) for m in case.make().modules())
        for case in first_call.cases()
        if "perceptron" in case.title
    }
    assert layers == {f"{n}-layer perceptron": n for n in (100, 500, 1000, 2000)}
