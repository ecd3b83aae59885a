"""The one table of tolerances, and the comparison that reads it; no test passes its own.

Errors are relative to the largest entry of the expected tensor: a gradient's small entries carry
the rounding of its large ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Claim = Literal[
    "op_f64",
    "meta_f64",
    "gradient_f64",
    "spread_ratio",
    "difference_f64",
    "float32_ratio",
    "float32_ulps",
    "winograd_5",
    "winograd_6",
    "tf32",
    "tf32_sums",
]

TOLERANCE: dict[Claim, float] = {
    "op_f64": 1e-11,  # one pass of one op, against torch.func
    "meta_f64": 1e-10,  # a meta-step, against the reference
    "gradient_f64": 1e-9,  # random networks, against double backward
    # Where that is not to be had from torch itself, in units of how far its own answers to the same
    # problem lie apart: a few draws of its rounding find most of the range, and ours is one more.
    "spread_ratio": 4.0,
    "difference_f64": 1e-6,  # central differences: their own error is about eps^(2/3)
    "float32_ratio": 2.0,  # error to the float64 truth, in units of torch's own float32 error
    "float32_ulps": 8.0,  # what comes on top, in units of float32's epsilon
    # So many times these for Winograd's tiles of 5 and of 6, which magnify rounding 9.5 and 20.6
    # times: see ops/winograd/winograd.hpp.
    "winograd_5": 5.0,
    "winograd_6": 11.0,
    # A tf32 product: each factor is off by at most 2^-11 of itself, so the product by 2^-10, and a
    # sum of many by less, as their signs differ. A meta-step chains some twenty such contractions
    # (forward, backward and both tangents of each layer), whose errors add up like their root.
    "tf32": 4 * 2.0**-10,
    "tf32_sums": 64 * 2.0**-24,  # sums of products of numbers that are already rounded: float32's
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected entry; 0 for empty tensors."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if not expected.numel():
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((actual - expected).abs().max() / scale)


def assert_close(actual: Tensor, expected: Tensor, claim: Claim) -> None:
    """Assert that the relative error is within the claim's tolerance."""
    error = relative_error(actual, expected)
    assert error <= TOLERANCE[claim], f"relative error {error:.2e} above {claim}"


def within(actual: Tensor, expected: Tensor, claim: Claim = "gradient_f64") -> bool:
    """Whether the relative error is within the claim's tolerance."""
    return relative_error(actual, expected) <= TOLERANCE[claim]


def assert_within_spread(
    actual: Tensor, expected: Tensor, others: Iterable[Tensor], claim: Claim
) -> None:
    """Assert closeness where torch's own answers to the same problem, ``others``, may differ."""
    spread = max(relative_error(other, expected) for other in others)
    allowed = max(TOLERANCE[claim], TOLERANCE["spread_ratio"] * spread)
    error = relative_error(actual, expected)
    assert error <= allowed, (
        f"relative error {error:.2e}, but torch's own answers vary {spread:.2e}"
    )


def assert_float32(
    actual: Tensor, torchs: Tensor, truth: Tensor, *, times: Claim | None = None
) -> None:
    """Assert that a float32 result is about as near to the float64 truth as torch's own."""
    allowed = TOLERANCE["float32_ratio"] * relative_error(torchs, truth)
    allowed += TOLERANCE["float32_ulps"] * torch.finfo(torch.float32).eps
    if times:
        allowed *= TOLERANCE[times]
    error = relative_error(actual, truth)
    assert error <= allowed, f"relative error {error:.2e} above {allowed:.2e}"
