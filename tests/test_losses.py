"""Every form in which a loss may be given, and every one that is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmaml.errors import SettingError
from fastmaml.losses import resolve

LOGITS = torch.tensor([[0.3, -1.0, 2.0], [0.1, 0.2, -0.4]], dtype=torch.float64)
CLASSES = torch.tensor([2, 0])
TARGETS = torch.tensor([[0.0, 1.0, 0.5], [0.2, 0.9, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "op", "attrs"),
    [
        ("mse", "mse", ()),
        ("cross_entropy", "cross_entropy", ()),
        ("bce_with_logits", "bce_with_logits", ()),
        (F.mse_loss, "mse", ()),
        (F.cross_entropy, "cross_entropy", ()),
        (F.binary_cross_entropy_with_logits, "bce_with_logits", ()),
        (nn.MSELoss(), "mse", ()),
        (nn.MSELoss(reduction="sum"), "mse", (("sum", 1.0),)),
        (nn.CrossEntropyLoss(), "cross_entropy", ()),
        (nn.CrossEntropyLoss(reduction="sum"), "cross_entropy", (("sum", 1.0),)),
        (
            nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1),
            "cross_entropy",
            (("sum", 1.0), ("label_smoothing", 0.1)),
        ),
        (nn.BCEWithLogitsLoss(reduction="sum"), "bce_with_logits", (("sum", 1.0),)),
    ],
)
def test_known_losses(loss: Any, op: str, attrs: tuple[tuple[str, float], ...]) -> None:
    resolved = resolve(loss)
    assert (resolved.op, resolved.attrs) == (op, attrs)
    assert resolved.classifies == (op == "cross_entropy")


class Scaled(nn.MSELoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return 3 * super().forward(input, target)


def hooked() -> nn.Module:
    module = nn.MSELoss()
    module.register_forward_hook(lambda module, args, output: 2 * output)
    return module


def replaced() -> nn.Module:
    module = nn.MSELoss()
    module.forward = lambda input, target: input.sum()  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.float64)),
        nn.BCEWithLogitsLoss(weight=torch.ones(3, dtype=torch.float64)),
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(3, dtype=torch.float64)),
        nn.L1Loss(),
        Scaled(),
        Scaled(reduction="sum"),
        hooked(),
        replaced(),
        lambda logits, y: (logits - y).abs().mean(),
    ],
)
def test_losses_only_torch_knows(loss: Any) -> None:
    resolved = resolve(loss)
    assert resolved.op is None
    assert resolved.function is loss
    assert resolved.classifies == isinstance(loss, nn.CrossEntropyLoss)


@pytest.mark.parametrize(
    ("loss", "y", "expected"),
    [
        ("mse", TARGETS, F.mse_loss),
        ("cross_entropy", CLASSES, F.cross_entropy),
        ("bce_with_logits", TARGETS, F.binary_cross_entropy_with_logits),
        (nn.MSELoss(reduction="sum"), TARGETS, lambda a, b: (a - b).square().sum()),
        (Scaled(), TARGETS, lambda a, b: 3 * (a - b).square().mean()),
    ],
)
def test_function_computes_it(loss: Any, y: Tensor, expected: Callable[..., Tensor]) -> None:
    torch.testing.assert_close(resolve(loss).function(LOGITS, y), expected(LOGITS, y))


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (
            "nll",
            'meta_step: loss must be one of "mse", "cross_entropy", "bce_with_logits", a torch '
            "loss module or a callable, got 'nll'.",
        ),
        (
            3,
            'meta_step: loss must be one of "mse", "cross_entropy", "bce_with_logits", a torch '
            "loss module or a callable, got an object of type int.",
        ),
        (
            nn.MSELoss(reduction="none"),
            'meta_step: MSELoss must have reduction "mean" or "sum" to give one loss per task, '
            'got "none".',
        ),
        (
            nn.CrossEntropyLoss(ignore_index=0),
            "meta_step: CrossEntropyLoss must not have an ignore_index, which is not supported, "
            "got 0; drop those rows, or pass a callable (logits, y) -> 0-dim loss.",
        ),
        (
            nn.CrossEntropyLoss(label_smoothing=1.5),
            "meta_step: CrossEntropyLoss must have label_smoothing between 0 and 1, got 1.5.",
        ),
    ],
)
def test_refusals(loss: Any, text: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(text)}$"):
        resolve(loss, "meta_step")
