"""Random numbers that are not torch's: where their generators stand."""

from __future__ import annotations

import random
from collections.abc import Hashable

import numpy as np

__all__ = ["positions"]


def positions() -> Hashable:
    """Equal to what it was as long as nobody has drawn from Python's or numpy's own generator."""
    _, keys, at, *gauss = np.random.get_state()  # noqa: NPY002 - it is the one that models draw from
    return random.getstate(), np.asarray(keys).tobytes(), at, *gauss
