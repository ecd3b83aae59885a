"""The door: what passes, and the text of everything that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from door import CPU, GOOD, GOOD_QUERY, Q, S, T, check, classes, inputs, refused

from fastmaml.errors import DeviceError, DtypeError, SettingError, ShapeError
from fastmaml.losses import resolve
from fastmaml.tasks import (
    validate,
    validate_inputs,
)


def test_what_passes() -> None:
    tasks = check(GOOD, GOOD_QUERY)
    assert (tasks.tasks, tasks.support_rows, tasks.query_rows) == (T, S, Q)
    assert tasks.row_shape == (1, 8)
    assert tasks.support_x is GOOD[0]
    assert tasks.query_y is GOOD_QUERY[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", ["mse", "bce_with_logits"])
def test_regression_targets_pass(loss: str, dtype: torch.dtype) -> None:
    x, y = inputs(S, dtype=dtype), torch.zeros(T, S, 2, dtype=dtype)
    assert check([x, y], (x, y), loss, dtype).support_y is y


def test_class_probabilities_pass() -> None:
    y = torch.full((T, S, 2), 0.5)
    assert check((inputs(S), y), (inputs(S), y)).query_y is y


def test_rows_without_dimensions_pass() -> None:
    x = torch.zeros(T, S)
    assert check((x, x), (x, x), "mse").row_shape == ()


def test_strides_are_free() -> None:
    x = torch.zeros(8, S, T).transpose(0, 2)
    y = torch.zeros(1, 1, dtype=torch.int64).expand(T, S)
    tasks = check((x, y), (torch.zeros(1, 1, 1).expand(T, Q, 8), y[:, :1].expand(T, Q)))
    assert tasks.support_x is x
    assert not tasks.support_x.is_contiguous()


def test_the_support_set_may_stand_in_for_the_query() -> None:
    tasks = validate(
        "adapt", GOOD, GOOD, dtype=torch.float32, device=CPU, loss=resolve("cross_entropy")
    )
    assert tasks.query_x is tasks.support_x
    assert tasks.query_rows == S


def test_callables_judge_their_own_targets() -> None:
    loss = resolve(lambda logits, y: logits.sum())
    y = torch.zeros(T, S, 7, dtype=torch.int8)
    validate("m", (inputs(S), y), (inputs(S), y), dtype=torch.float32, device=CPU, loss=loss)


SHAPES: list[tuple[Any, Any, str]] = [
    (
        GOOD,
        (inputs(Q, tasks=3), classes(Q)),
        "query x must be [T=4, Q, 1, 8] like support x, got [3, 5, 1, 8].",
    ),
    (
        GOOD,
        (inputs(Q, row=(1, 9)), classes(Q)),
        "query x must be [T=4, Q, 1, 8] like support x, got [4, 5, 1, 9].",
    ),
    (
        GOOD,
        (inputs(Q, row=(8,)), classes(Q)),
        "query x must be [T=4, Q, 1, 8] like support x, got [4, 5, 8].",
    ),
    (
        (torch.zeros(4), classes(S)),
        GOOD_QUERY,
        "support x must be [T, S, ...], got [4]; add the missing dimension with x.unsqueeze.",
    ),
    (
        GOOD,
        (torch.zeros(()), classes(Q)),
        "query x must be [T, Q, ...], got []; add the missing dimension with x.unsqueeze.",
    ),
    (
        (inputs(S, tasks=0), classes(S, tasks=0)),
        GOOD_QUERY,
        "support x must hold at least one task, got [0, 3, 1, 8].",
    ),
    (
        (inputs(0), classes(0)),
        GOOD_QUERY,
        "support x must hold at least one row per task, got S=0 in [4, 0, 1, 8].",
    ),
    (
        GOOD,
        (inputs(0), classes(0)),
        "query x must hold at least one row per task, got Q=0 in [4, 0, 1, 8].",
    ),
    (
        (inputs(S), classes(S, tasks=5)),
        GOOD_QUERY,
        "support y must be [T=4, S=3, ...] like support x, got [5, 3].",
    ),
    (
        GOOD,
        (inputs(Q), classes(S)),
        "query y must be [T=4, Q=5, ...] like query x, got [4, 3].",
    ),
    (
        (inputs(S), classes(S)[0]),
        GOOD_QUERY,
        "support y must be [T=4, S=3, ...] like support x, got [3].",
    ),
    (
        (inputs(S), classes(S)[..., None]),
        GOOD_QUERY,
        "support y must be [T, S] class indices, got [4, 3, 1].",
    ),
    (
        [GOOD] * 3,
        GOOD_QUERY,
        "support must be a pair (x, y) of dense tensors, got a list of 3 tasks; give all tasks "
        "the same number of rows and join them with torch.stack.",
    ),
    (
        GOOD,
        [GOOD] * 2,
        "query must be a pair (x, y) of dense tensors, got a list of 2 tasks; give all tasks "
        "the same number of rows and join them with torch.stack.",
    ),
    (
        ([inputs(S)[0]], [classes(S)[0]]),
        GOOD_QUERY,
        "support must be a pair (x, y) of dense tensors, got (list, list); make each of x and y "
        "one tensor, with torch.stack.",
    ),
    (
        (inputs(S), np.zeros((T, S))),
        GOOD_QUERY,
        "support must be a pair (x, y) of dense tensors, got (Tensor, ndarray); make each of x "
        "and y one tensor, with torch.stack.",
    ),
    (
        (inputs(S),),
        GOOD_QUERY,
        "support must be a pair (x, y) of dense tensors, got (Tensor); make each of x and y one "
        "tensor, with torch.stack.",
    ),
    (
        [],
        GOOD_QUERY,
        "support must be a pair (x, y) of dense tensors, got (); make each of x and y one "
        "tensor, with torch.stack.",
    ),
    (
        inputs(S),
        GOOD_QUERY,
        "support must be a pair (x, y) of dense tensors, got one tensor [4, 3, 1, 8]; pass both "
        "x and y.",
    ),
    (GOOD, "xy", "query must be a pair (x, y) of dense tensors, got str."),
    (7, GOOD_QUERY, "support must be a pair (x, y) of dense tensors, got int."),
]


@pytest.mark.parametrize(("support", "query", "text"), SHAPES)
def test_shapes(support: Any, query: Any, text: str) -> None:
    refused(ShapeError, f"meta_step: {text}", lambda: check(support, query))


DTYPES: list[tuple[Any, Any, str, str]] = [
    (
        (inputs(S).half(), classes(S)),
        GOOD_QUERY,
        "cross_entropy",
        "support x must be torch.float32 like the model's parameters, got torch.float16; "
        "call x.float().",
    ),
    (
        GOOD,
        (inputs(Q).bfloat16(), classes(Q)),
        "cross_entropy",
        "query x must be torch.float32 like the model's parameters, got torch.bfloat16; "
        "call x.float().",
    ),
    (
        (inputs(S).long(), classes(S)),
        GOOD_QUERY,
        "cross_entropy",
        "support x must be torch.float32 like the model's parameters, got torch.int64; "
        "call x.float(), or, where x holds indices such as token ids, give the model their "
        "embeddings as x.",
    ),
    (
        GOOD,
        (inputs(Q).double(), classes(Q)),
        "cross_entropy",
        "query x must be torch.float32 like the model's parameters, got torch.float64; "
        "call x.float().",
    ),
    (
        (inputs(S), classes(S).int()),
        GOOD_QUERY,
        "cross_entropy",
        "support y must be torch.int64 class indices for cross_entropy, got torch.int32; "
        "call y.long().",
    ),
    (
        GOOD,
        (inputs(Q), classes(Q).bool()),
        "cross_entropy",
        "query y must be torch.int64 class indices for cross_entropy, got torch.bool; "
        "call y.long().",
    ),
    (
        (inputs(S), classes(S).float()),
        GOOD_QUERY,
        "cross_entropy",
        "support y must be torch.int64 class indices [T, S] for cross_entropy, got "
        "torch.float32; call y.long().",
    ),
    (
        (inputs(S), torch.zeros(T, S, 2).double()),
        GOOD_QUERY,
        "cross_entropy",
        "support y must be torch.float32 class probabilities like x, got torch.float64; "
        "call y.float().",
    ),
    (
        (inputs(S), classes(S)),
        GOOD_QUERY,
        "mse",
        "support y must be torch.float32 like x for mse, got torch.int64; call y.float().",
    ),
    (
        (inputs(S), torch.zeros(T, S)),
        (inputs(Q), torch.zeros(T, Q).double()),
        "bce_with_logits",
        "query y must be torch.float32 like x for bce_with_logits, got torch.float64; "
        "call y.float().",
    ),
]


@pytest.mark.parametrize(("support", "query", "loss", "text"), DTYPES)
def test_dtypes(support: Any, query: Any, loss: str, text: str) -> None:
    refused(DtypeError, f"meta_step: {text}", lambda: check(support, query, loss))


def test_double_models_name_the_other_cast() -> None:
    refused(
        DtypeError,
        "meta_step: support x must be torch.float64 like the model's parameters, got "
        "torch.float32; call x.double().",
        lambda: check(GOOD, GOOD_QUERY, dtype=torch.float64),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_models_of_other_precision(dtype: torch.dtype) -> None:
    refused(
        DtypeError,
        "meta_step: model parameters must be torch.float32 or torch.float64, got "
        f"{dtype}; call model.float().",
        lambda: check(GOOD, GOOD_QUERY, dtype=dtype),
    )


def test_devices() -> None:
    refused(
        DeviceError,
        "meta_step: support x must be on meta like the model's parameters, got cpu; "
        'call .to("meta").',
        lambda: check(GOOD, GOOD_QUERY, device=torch.device("meta")),
    )
    refused(
        DeviceError,
        "meta_step: query y must be on cpu like the model's parameters, got meta; "
        'call .to("cpu").',
        lambda: check(GOOD, (GOOD_QUERY[0], GOOD_QUERY[1].to("meta"))),
    )


def test_data_must_not_require_grad() -> None:
    x = inputs(S).requires_grad_()
    refused(
        SettingError,
        "meta_step: data must not require grad, got support x with requires_grad=True; "
        "call .detach().",
        lambda: check((x, classes(S)), GOOD_QUERY),
    )
    y = torch.zeros(T, Q, requires_grad=True)
    refused(
        SettingError,
        "meta_step: data must not require grad, got query y with requires_grad=True; "
        "call .detach().",
        lambda: check((inputs(S), torch.zeros(T, S)), (inputs(Q), y), "mse"),
    )


def test_sparse_data() -> None:
    refused(
        SettingError,
        "meta_step: support x must be a dense tensor, got torch.sparse_coo; call .to_dense().",
        lambda: check((inputs(S).to_sparse(), classes(S)), GOOD_QUERY),
    )


def test_inputs_of_adapted_tasks() -> None:
    tasks = check(GOOD, GOOD_QUERY)
    validate_inputs("predict", inputs(11), like=tasks)
    for x, text in [
        (inputs(2, tasks=3), "query x must be [T=4, Q, 1, 8] like support x, got [3, 2, 1, 8]."),
        (inputs(2, row=(8,)), "query x must be [T=4, Q, 1, 8] like support x, got [4, 2, 8]."),
        (inputs(0), "query x must hold at least one row per task, got Q=0 in [4, 0, 1, 8]."),
        (None, "query x must be a dense tensor, got NoneType."),
    ]:
        refused(
            ShapeError,
            f"predict: {text}",
            lambda x=x: validate_inputs("predict", x, like=tasks),  # type: ignore[misc]
        )
