"""The meta-training loop, and the state that lets a killed run go on bitwise as if it had not been.

One iteration: draw tasks, `fastmaml.meta_step`, Adam. The state is the model, the optimizer, the
task generator, the iteration and the learning curve with its unfinished window.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from fastmaml.calls.meta import meta_step
from fastmaml.data import Episode, TaskSource
from fastmaml.errors import SettingError
from fastmaml.train import checkpoint
from fastmaml.train.baselines import BACKEND, protonet_step
from fastmaml.train.progress import progress_bar
from fastmaml.train.settings import TrainSettings

CurvePoint = dict[str, float | int]
T = TypeVar("T")


class StoppedError(Exception):
    """The run was stopped by a signal, after its checkpoint was written.

    Attributes:
        path: the checkpoint.
        iteration: meta-steps done.
    """

    def __init__(self, path: Path, iteration: int) -> None:
        """Says where the run can go on."""
        super().__init__(f"stopped after iteration {iteration}; checkpoint: {path}")
        self.path = path
        self.iteration = iteration


class Run:
    """One model in training.

    Attributes:
        iteration: meta-steps done.
        curve: one point per window: iteration, mean loss, accuracy where there is one, and what
            the validation adds.
        best: the validated iterate with the lowest score, None before the first: "score",
            "iteration" and "model", its state.
        seconds: wall time spent training, over all sittings.
        sampling_seconds: the part of it that drawing tasks took.
        backend: what ran, "fused" or "reference".
    """

    def __init__(self, model: nn.Module, settings: TrainSettings, stream: int) -> None:
        """Starts a run at iteration 0.

        Args:
            model: the network, changed in place.
            settings: the run's settings.
            stream: seeds the task generator.
        """
        self.model = model
        self.settings = settings
        # fused=True is one call for all parameters: a quarter of the time of the default here.
        self.optimizer = torch.optim.Adam(model.parameters(), lr=settings.meta_lr, fused=True)
        # Cleared in the loop: `zero_grad` takes twenty times as long to do the same.
        self._parameters = list(model.parameters())
        self.generator = Generator().manual_seed(stream)
        self.iteration = 0
        self.curve: list[CurvePoint] = []
        self.best: dict[str, Any] | None = None
        self.seconds = 0.0
        self.sampling_seconds = 0.0
        self.backend = ""
        self._window = [0.0, 0.0, 0]

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and plain values."""
        return {
            "settings": self.settings.as_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "iteration": self.iteration,
            "curve": self.curve,
            "best": self.best,
            "window": self._window,
            "seconds": self.seconds,
            "sampling_seconds": self.sampling_seconds,
            "backend": self.backend,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a state from `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.iteration = state["iteration"]
        self.curve = state["curve"]
        self.best = state["best"]
        self.seconds = state["seconds"]
        self.sampling_seconds = state.get("sampling_seconds", 0.0)
        self.backend = state["backend"]
        self._window = state["window"]

    def step(self, source: TaskSource, inner_steps: int) -> float:
        """One meta-step; returns its loss."""
        settings = self.settings
        start = time.perf_counter()
        episode = on_one_thread(lambda: source.sample(settings.tasks, self.generator))
        self.sampling_seconds += time.perf_counter() - start
        for parameter in self._parameters:
            parameter.grad = None
        loss: Tensor
        accuracy: Tensor | None
        if settings.method == "protonet":
            loss, accuracy = protonet_step(self.model, episode)
            self.backend = BACKEND
        else:
            loss, accuracy = self._meta_step(episode, inner_steps)
        if settings.clip:
            nn.utils.clip_grad_value_(self._parameters, settings.clip)
        on_one_thread(self.optimizer.step)
        self.iteration += 1
        value = float(loss)
        self._window[0] += value
        self._window[1] += math.nan if accuracy is None else float(accuracy)
        self._window[2] += 1
        return value

    def _meta_step(self, episode: Episode, inner_steps: int) -> tuple[Tensor, Tensor | None]:
        settings = self.settings
        result = meta_step(
            self.model,
            *episode,
            loss=settings.loss,
            inner_lr=settings.inner_lr,
            inner_steps=inner_steps,
            first_order=settings.first_order,
            backend=settings.backend,
        )
        self.backend = result.backend
        return result.loss, result.accuracy

    def keep_best(self, score: float) -> None:
        """Keeps a copy of the model if its validation score is the lowest so far."""
        if math.isfinite(score) and (self.best is None or score < self.best["score"]):
            model = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"score": score, "iteration": self.iteration, "model": model}

    def check_finite(self) -> None:
        """Whether all losses of the curve's current window are.

        Raises:
            SettingError: the loss is no longer finite.
        """
        loss, _, count = self._window
        if not math.isfinite(loss):
            raise SettingError(
                f"train: the loss must stay finite, got {loss / count} at iteration "
                f"{self.iteration}; lower --inner-lr or --meta-lr."
            )

    def close_window(self) -> CurvePoint:
        """Ends the learning curve's current window and returns its point.

        Raises:
            SettingError: the loss is no longer finite.
        """
        loss, accuracy, count = self._window
        point: CurvePoint = {"iteration": self.iteration, "loss": loss / count}
        if not math.isnan(accuracy):
            point["accuracy"] = accuracy / count
        self.check_finite()
        self.curve.append(point)
        self._window = [0.0, 0.0, 0]
        return point


def train(
    run: Run,
    source: TaskSource,
    path: Path,
    *,
    title: str,
    inner_steps: int,
    validate: Callable[[nn.Module], tuple[float, dict[str, float]]],
) -> None:
    """Trains `run` up to its settings' iterations, with checkpoints at `path`.

    Args:
        run: fresh or restored.
        source: training tasks.
        path: the checkpoint file.
        title: text in front of the progress bar.
        inner_steps: 0 trains on the query sets alone, with no inner loop.
        validate: gives a score, lower is better, and figures that join the learning curve; called
            at every tenth of its points.

    Raises:
        StoppedError: a signal came; the checkpoint is written.
        SettingError: the loss is no longer finite; the checkpoint is an earlier one.
    """
    settings = run.settings
    total, window = settings.iterations, settings.window
    before, start = run.seconds, time.perf_counter()
    with stop_requests() as stop, progress_bar(title, settings, run.iteration) as show:
        while run.iteration < total:
            show(run.step(source, inner_steps))
            if run.iteration % window == 0 or run.iteration == total:
                point = run.close_window()
                if len(run.curve) % 10 == 0:
                    score, figures = validate(run.model)
                    point.update(figures)
                    run.keep_best(score)
            due = run.iteration % settings.checkpoint_every == 0 or run.iteration == total
            if due or stop.is_set():
                run.check_finite()  # the last good checkpoint stays
                run.seconds = before + time.perf_counter() - start
                checkpoint.save(path, run.state())
            if stop.is_set() and run.iteration < total:
                raise StoppedError(path, run.iteration)


def on_one_thread(call: Callable[[], T]) -> T:
    """Calls `call` while torch has one thread, and returns its result.

    For work of microseconds: fused Adam shares even that among torch's threads, and where one of
    them has no core to itself, the others wait for it for milliseconds. The bits are the same.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return call()
    finally:
        torch.set_num_threads(threads)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yields an event that SIGINT and SIGTERM set, so that no iteration is broken into.

    A second SIGINT does break in. Outside the main thread signals are left alone.
    """
    requested = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, request)
    try:
        yield requested
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
