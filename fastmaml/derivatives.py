"""Operations of torch's that cannot be derived twice: another kernel where there is one, or advice.

Attention is: torch's fused kernels have no second derivative, its formula (the math kernel) has.
Which kernel runs is a setting of the whole process; it is changed while a call needs it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from torch.nn.attention import SDPBackend, sdpa_kernel

from .errors import UnsupportedModelError

__all__ = ["derived_twice"]

_Result = TypeVar("_Result")

_LOCK = threading.Lock()  # of the next two, never held while anything runs
_users = 0
_setting = ExitStack()


def derived_twice(where: str, run: Callable[[], _Result]) -> _Result:
    """Run what derives twice; with attention by its formula where torch's kernel cannot.

    Raises:
        UnsupportedModelError: An operation has no second derivative; the text names it.
    """
    try:
        return run()
    except (RuntimeError, NotImplementedError) as error:
        if "scaled_dot_product" not in str(error):
            raise _advice(where, error) from error
    with _math_attention():
        return run()


@contextmanager
def _math_attention() -> Iterator[None]:
    """Attention by its formula, for as long as any thread needs it."""
    global _users
    with _LOCK:
        if not _users:
            _setting.enter_context(sdpa_kernel(SDPBackend.MATH))
        _users += 1
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if not _users:
                _setting.close()


def _advice(where: str, error: Exception) -> Exception:
    missing = re.search(
        r"derivative for (?:aten::)?(\w+?)(?:_backward)? is not implemented", str(error)
    )
    if missing is None:
        return error
    return UnsupportedModelError(
        f"{where}: torch has no second derivative of `{missing[1]}`, which the model or the loss "
        "uses; pass first_order=True, or compute it from other operations."
    )
