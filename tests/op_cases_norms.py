"""What the norms are tested on; tests/op_cases.py lists these cases with its own.

Beside the cases: torch's forms of the norms, for the tests of the tracer, whose rows are [2, 5, 4],
and what the norms mean, in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from op_case import Meaning, OpCase, norm
from op_cases_image import IMAGE, function, image
from torch import Tensor, nn

from fastmaml.tracing.network import Node


def norm2d(variant: str, freeze: str = "", **options: bool) -> OpCase:
    return image(
        "batch_norm",
        f"images, {variant}",
        lambda: norm(nn.BatchNorm2d, 2, freeze=freeze, **options),
    )


def pooled(
    variant: str, pool: object, *, relu: bool = True, freeze: str = "", **options: bool
) -> OpCase:
    """Batch norm, ReLU if wanted, and a max-pool, which the engine computes in one sweep."""

    def model() -> nn.Module:
        made = norm(nn.BatchNorm2d, 3, freeze=freeze, **options)
        assert isinstance(made, nn.Module)
        return nn.Sequential(made, *[nn.ReLU()] * relu, nn.MaxPool2d(pool))

    return image("batch_norm", f"pooled, {variant}", model, "", (3, 5, 7))


NORMS: list[tuple[str, str, Callable[[], nn.Module], tuple[int, int, int]]] = [
    ("group_norm", "images", lambda: norm(nn.GroupNorm, 3, 9), (9, 2, 3)),
    ("group_norm", "wide", lambda: norm(nn.GroupNorm, 2, 38), (38, 1, 2)),
    ("group_norm", "one group", lambda: norm(nn.GroupNorm, 1, 2), IMAGE),
    ("group_norm", "instance", lambda: norm(nn.InstanceNorm2d, 19, affine=True), (19, 3, 3)),
    ("layer_norm", "columns", lambda: norm(nn.LayerNorm, 4), IMAGE),
    ("layer_norm", "images", lambda: norm(nn.LayerNorm, IMAGE), IMAGE),
]
NORM_CASES = [
    norm2d("batch"),
    norm2d("batch, plain", affine=False),
    norm2d("batch, weight only", "bias"),
    norm2d("running", training=False),
    norm2d("running, plain", training=False, affine=False),
    image(
        "batch_norm",
        "images, batch of data",
        lambda: norm(nn.BatchNorm2d, 2),
        "first.weight first.bias",
    ),
    pooled("batch", 2),
    pooled("no relu", (1, 3), relu=False),
    pooled("tall", (5, 2)),
    pooled("plain", (2, 3), affine=False),
    pooled("bias only", 2, freeze="weight"),
    pooled("running", (3, 2), training=False),
    *(
        image(op, f"{variant}, {name}", make, freeze, shape)
        for op, variant, make, shape in NORMS
        for name, freeze in {
            "all": "",
            "weight": "op.bias",
            "bias": "op.weight",
            "of data": "first.weight first.bias",
        }.items()
    ),
    image("group_norm", "plain", lambda: nn.GroupNorm(2, 4, affine=False), "", (4, 3, 2)),
    image("group_norm", "instance, plain", lambda: nn.InstanceNorm2d(2)),
    function("group_norm", "function", lambda x: F.group_norm(x, 1, eps=0.1)),
    function("group_norm", "instance, function", F.instance_norm),
    function("group_norm", "features", lambda x: F.group_norm(x.flatten(1), 4)),
    function("layer_norm", "function", lambda x: F.layer_norm(x, [5, 4])),
    image("layer_norm", "plain", lambda: nn.LayerNorm(4, elementwise_affine=False)),
    function("layer_norm", "features", lambda x: F.layer_norm(x.flatten(1), (40,))),
]

NORM_MODULES: dict[type[nn.Module], list[Callable[[], nn.Module]]] = {
    nn.BatchNorm2d: [
        lambda: nn.BatchNorm2d(2, eps=1e-3),
        lambda: norm(nn.BatchNorm2d, 2, training=False),
        lambda: nn.BatchNorm2d(2, affine=False),
    ],
    nn.GroupNorm: [lambda: norm(nn.GroupNorm, 2, 2), lambda: nn.GroupNorm(1, 2, 0.1, affine=False)],
    nn.InstanceNorm2d: [
        lambda: nn.InstanceNorm2d(2),
        lambda: norm(nn.InstanceNorm2d, 2, affine=True),
    ],
    nn.LayerNorm: [lambda: norm(nn.LayerNorm, 4), lambda: nn.LayerNorm((5, 4), bias=False)],
}

NORM_FUNCTIONS: dict[Any, list[Callable[..., Any]]] = {
    F.group_norm: [lambda x: F.group_norm(x, 2, eps=0.1)],
    F.instance_norm: [lambda x: F.instance_norm(x, eps=0.1)],
    F.layer_norm: [lambda x: F.layer_norm(x, (4,)), lambda x: F.layer_norm(x, [2, 5, 4])],
}


def batch_norm(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    weight, bias, mean, var = p
    if node.attrs["batch_stats"]:
        assert mean is None
        assert var is None
        dims = (0, *range(2, x[0].dim()))
        mean, var = x[0].mean(dims), x[0].var(dims, unbiased=False)
    assert mean is not None
    assert var is not None
    mean, var, weight, bias = (
        None if t is None else t.reshape(-1, *(1,) * (x[0].dim() - 2))
        for t in (mean, var, weight, bias)
    )
    y = (x[0] - mean) / (var + node.attrs["eps"]).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


NORM_MEANINGS: dict[str, Meaning] = {
    "batch_norm": batch_norm,
    "group_norm": lambda n, x, p: F.group_norm(x[0], int(n.attrs["groups"]), *p, n.attrs["eps"]),
    "layer_norm": lambda n, x, p: F.layer_norm(
        x[0], n.shape[-int(n.attrs["dims"]) :], *p, n.attrs["eps"]
    ),
}
