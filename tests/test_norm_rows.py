"""Batch norms of so many rows that the threads of a team share rows instead of features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_ops import RATE, answer, check
from torch import Tensor, nn

import fastmaml

# Just over the 1 MiB from which rows are shared, with a last vector of features in part; odd, so
# that pools leave a row and a column over.
FEATURES, HEIGHT, WIDTH = 19, 55, 51
ROWS = {torch.float32: 5, torch.float64: 3}


class Norm(nn.Module):
    """What a batch norm follows that leaves it no moments, the norm, and what takes it in."""

    def __init__(self, *after: nn.Module, training: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, FEATURES, 3, padding=1)
        self.norm = nn.BatchNorm2d(FEATURES).train(training)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.bias)
        self.after = nn.Sequential(*after)
        self.last = nn.Linear(FEATURES, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.after(self.norm(torch.tanh(self.first(x)))).mean((2, 3)))


NORMS = {
    "plain": lambda: Norm(nn.Softplus()),
    "leaky": lambda: Norm(nn.LeakyReLU(0.1)),
    "pooled": lambda: Norm(nn.ReLU(), nn.MaxPool2d(2)),
    "running": lambda: Norm(nn.Softplus(), training=False),
}


def one_task(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    rows = ROWS[dtype]
    return [(torch.randn(1, rows, 2, HEIGHT, WIDTH), torch.rand(1, rows, 2)) for _ in range(2)]


SETTINGS = {"loss": nn.MSELoss(), "inner_lr": RATE, "inner_steps": 2}


def assert_shared(model: nn.Module, dtype: torch.dtype) -> None:
    torch.set_num_threads(3)
    pairs = [(x.to(dtype), y.to(dtype)) for x, y in one_task(dtype)]
    text = fastmaml.describe(model.to(dtype), *pairs, **SETTINGS)
    assert "at most 3 threads, 1 lanes" in text
    norms = [line for line in text.splitlines() if line.startswith("  batch_norm ")]
    assert len(norms) == 3 * 2 + 2 * 2  # two passes of three sets, two tangent passes of two
    assert all("rows shared in " in line for line in norms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
def test_bits_do_not_depend_on_threads(make: Callable[[], Norm], dtype: torch.dtype) -> None:
    model, tasks = make(), one_task(dtype)
    assert_shared(model, dtype)
    answers = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        answers.append(answer(model, tasks, dtype, fused=True, **SETTINGS))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


@pytest.mark.parametrize(
    "frozen", ["none", "norm.weight", "norm", "first"], ids="frozen: {}".format
)
@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
def test_gradients_are_torchs(make: Callable[[], Norm], frozen: str) -> None:
    model, tasks = make(), one_task(torch.float64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    torch.set_num_threads(3)
    check(model, tasks, single=False, **SETTINGS)
