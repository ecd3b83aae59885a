"""What the stem's device code must withstand beyond the op cases: the claims of test_rewrites."""

from __future__ import annotations

import pytest
import test_rewrites
from device_code import on_fibers


@test_rewrites.STRIDES
@pytest.mark.parametrize("apart", [0.0, 30.0, 1000.0])
def test_stem_of_images_far_apart(stride: int, apart: float) -> None:
    with on_fibers():
        test_rewrites.test_stem_of_images_far_apart(stride, apart)


def test_pixels_between_windows_do_not_count() -> None:
    with on_fibers():
        test_rewrites.test_pixels_between_windows_do_not_count()
