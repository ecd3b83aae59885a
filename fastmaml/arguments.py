"""Numbers on the command line, within bounds that nothing behind them refuses."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["MOST_SEED", "MOST_STEPS", "MOST_THREADS", "inner_rate", "positive", "whole"]

MOST = 2**31 - 1
MOST_SEED = 2**63 - 1
MOST_THREADS = 4096
MOST_STEPS = 10_000


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`."""

    def convert(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}, got {text!r}"
            )
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, got {text!r}")
        return value

    return convert


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def inner_rate(text: str) -> float | str:
    """Read a rate, or the word that stands for the paper's."""
    return text if text == "paper" else positive(text)
