"""Sums over very many numbers keep the digits that torch's keep.

Each case has one kind of sum that grows with its data. What is allowed grows with torch's own
error alone, which a sum from end to end would exceed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import test_device_ops
import torch
from test_ops import RATE, Pairs, answer, check
from torch import nn

WAYS = 3


class Case(NamedTuple):
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of a task's rows
    loss: nn.Module = nn.CrossEntropyLoss()
    outputs: int = WAYS
    tasks: int = 1

    def data(self) -> Pairs:
        rows = self.shape[0]
        if isinstance(self.loss, nn.CrossEntropyLoss):
            targets = [torch.randint(self.outputs, (self.tasks, rows)) for _ in range(2)]
        else:
            targets = [torch.rand(self.tasks, rows, self.outputs) for _ in range(2)]
        return tuple((torch.rand(self.tasks, *self.shape) + 1, y) for y in targets)


def image(*layers: nn.Module) -> nn.Module:
    """The layers behind a convolution, and the mean over all pixels."""
    mean = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, WAYS)
    return nn.Sequential(nn.Conv2d(1, 4, 1), *layers, *mean)


def rows(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), *layers, nn.Tanh(), nn.Linear(8, WAYS))


def features(count: int, *layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Linear(count, 40), nn.Tanh(), nn.Linear(40, WAYS))


def alike() -> nn.Module:
    """The losses of all rows are the same number."""
    model = nn.Linear(2, WAYS)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def cases(side: int, window: int, many: int, wide: int, classes: int) -> dict[str, Case]:
    """By the sides of images and of windows, by rows, features and classes."""
    whole, part = (2, 1, side, side), (2, 1, 2 * window + 1, 2 * window + 1)
    overlap = {"kernel_size": window, "stride": 1}
    return {
        "mean over pixels": Case(image, whole),
        "overlapping windows": Case(lambda: image(nn.AvgPool2d(**overlap)), part),
        "overlapping maxima": Case(lambda: image(nn.MaxPool2d(**overlap)), part),
        "group norm": Case(lambda: image(nn.GroupNorm(2, 4), nn.ReLU()), whole),
        "instance norm": Case(lambda: image(nn.InstanceNorm2d(4, affine=True), nn.Tanh()), whole),
        "layer norm": Case(lambda: features(wide, nn.LayerNorm(wide)), (2, wide)),
        "batch norm": Case(lambda: rows(nn.BatchNorm1d(8)), (many, 2)),
        "batch norm of one feature": Case(
            lambda: nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1), nn.Tanh(), nn.Linear(1, 3)),
            (many, 2),
        ),
        "mse": Case(rows, (many, 2), nn.MSELoss()),
        "binary cross entropy": Case(rows, (many, 2), nn.BCEWithLogitsLoss()),
        "cross entropy": Case(rows, (many, 2)),
        "losses that are alike": Case(alike, (many, 2)),
        "many classes": Case(
            lambda: nn.Linear(2, classes), (2, 2), nn.CrossEntropyLoss(label_smoothing=0.1), classes
        ),
        "many features": Case(lambda: features(wide), (2, wide)),
    }


ON_CPU = cases(side=256, window=20, many=70_000, wide=30_000, classes=10_000)
ON_CPU["many tasks"] = Case(rows, (2, 2), nn.MSELoss(), tasks=400)
ON_DEVICE = cases(side=64, window=17, many=4100, wide=9000, classes=8500)
CPU = pytest.mark.parametrize("case", ON_CPU.values(), ids=ON_CPU)
DEVICE = pytest.mark.parametrize("case", ON_DEVICE.values(), ids=ON_DEVICE)


@CPU
def test_digits_are_kept(case: Case) -> None:
    check(case.model(), case.data(), loss=case.loss, inner_lr=RATE, inner_steps=1)


@CPU
def test_bits_do_not_depend_on_threads(case: Case) -> None:
    model, tasks, answers = case.model(), case.data(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        settings = {"loss": case.loss, "inner_lr": RATE, "inner_steps": 1}
        answers.append(answer(model, tasks, torch.float32, fused=True, **settings))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


@DEVICE
def test_digits_are_kept_by_device_code(case: Case) -> None:
    settings = {"loss": case.loss, "inner_lr": RATE, "inner_steps": 1}
    test_device_ops.check(case.model(), case.data(), **settings)
