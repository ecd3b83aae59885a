"""The second half of the door, once the model has run: its output, targets and class indices."""

from __future__ import annotations

import pytest
import torch
from door import GOOD, GOOD_QUERY, Q, S, T, check, classes, inputs, refused

from fastmaml.errors import SettingError, ShapeError
from fastmaml.losses import resolve
from fastmaml.tasks import check_classes, check_output, check_targets


def test_outputs() -> None:
    tasks = check(GOOD, GOOD_QUERY)
    cross_entropy = resolve("cross_entropy")
    check_output("meta_step", tasks, cross_entropy, S, (S, 1))
    check_output("meta_step", tasks, resolve(lambda logits, y: logits.sum()), S, (S,))
    for shape, text in [
        ((), "the model must return one output per row, got [] for 3 rows."),
        ((6, 2), "the model must return one output per row, got [6, 2] for 3 rows."),
        (
            (S,),
            "the model must return one logit per class, [rows, C], for class indices, got [rows].",
        ),
        (
            (S, 2, 2),
            "the model must return one logit per class, [rows, C], for class indices, "
            "got [rows, 2, 2].",
        ),
        (
            (S, 0),
            "the model must return one logit per class, [rows, C], for class indices, "
            "got [rows, 0].",
        ),
    ]:
        refused(
            ShapeError,
            f"meta_step: {text}",
            lambda shape=shape: check_output(  # type: ignore[misc]
                "meta_step", tasks, cross_entropy, S, shape
            ),
        )


def test_targets() -> None:
    support, query = (inputs(S), torch.zeros(T, S)), (inputs(Q), torch.zeros(T, Q))
    tasks = check(support, query, "mse")
    check_targets("meta_step", tasks, ())
    refused(
        ShapeError,
        "meta_step: support y must be [T=4, S=3, 1] like the model's output, got [4, 3]; "
        "call y.unsqueeze(-1).",
        lambda: check_targets("meta_step", tasks, (1,)),
    )
    refused(
        ShapeError,
        "meta_step: support y must be [T=4, S=3, 2] like the model's output, got [4, 3].",
        lambda: check_targets("meta_step", tasks, (2,)),
    )
    mixed = check((inputs(S), torch.zeros(T, S, 2)), (inputs(Q), torch.zeros(T, Q, 3)), "mse")
    refused(
        ShapeError,
        "meta_step: query y must be [T=4, Q=5, 2] like the model's output, got [4, 5, 3].",
        lambda: check_targets("meta_step", mixed, (2,)),
    )


@pytest.mark.parametrize(("value", "count"), [(5, 5), (-1, 5), (-100, 5), (2**40, 2)])
@pytest.mark.parametrize("side", ["support", "query"])
def test_class_indices(side: str, value: int, count: int) -> None:
    support, query = (inputs(S), classes(S)), (inputs(Q), classes(Q))
    y = (support if side == "support" else query)[1]
    y[2, 1] = value
    refused(
        SettingError,
        f"meta_step: {side} y must hold class indices 0 to {count - 1}, as the model has "
        f"{count} outputs, got {value} at [2, 1].",
        lambda: check_classes("meta_step", check(support, query), count),
    )


def test_class_indices_in_range() -> None:
    y = torch.arange(S).expand(T, S)
    check_classes("meta_step", check((inputs(S), y), (inputs(S), y)), S)
