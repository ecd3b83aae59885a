"""The progress bar of a run: loss and tasks per second, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from fastmaml.train.settings import TrainSettings

TERMINAL_S = 0.2
LOG_S = 10.0


class Patient:
    """A stream that may be closed, full or gone: a run goes on without it."""

    def __init__(self, stream: TextIO | None) -> None:
        """Stand in for the stream."""
        self._stream = stream
        self.encoding = getattr(stream, "encoding", "utf-8")

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Its descriptor; an OSError where there is no stream."""
        if self._stream is None:
            raise OSError("no stream")
        return self._stream.fileno()

    def write(self, text: str) -> None:
        """Write, if it can be."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.write(text)

    def flush(self) -> None:
        """Flush, if it can be."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()


@contextmanager
def progress_bar(
    title: str, settings: TrainSettings, done: int
) -> Iterator[Callable[[float], None]]:
    """Shows a run's progress; redraws seldom when standard error is no terminal.

    Args:
        title: text in front of the bar.
        settings: tell the iterations, and the tasks per iteration for the rate.
        done: iterations already taken.

    Yields:
        A function to call with the loss after every iteration.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    stream = Patient(sys.stderr)
    interval = TERMINAL_S if stream.isatty() else LOG_S
    due = time.perf_counter() + TERMINAL_S
    bar = tqdm(
        desc=title,
        total=settings.iterations,
        initial=done,
        unit=" tasks",
        unit_scale=settings.tasks,
        mininterval=interval,
        dynamic_ncols=True,
        file=stream,
    )

    def show(loss: float) -> None:
        nonlocal due
        now = time.perf_counter()
        if now >= due or bar.n + 1 >= settings.iterations:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            due = now + interval
        bar.update()

    try:
        yield show
    finally:
        bar.close()
