"""The pictures of a run: adapted sinusoids as in the paper's figure 2, accuracy per step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, nn

from fastmaml.calls.evaluate import Evaluation
from fastmaml.calls.meta import query_losses
from fastmaml.data import SinusoidTasks
from fastmaml.train.checkpoint import write_atomically
from fastmaml.train.settings import TrainSettings

CURVE_POINTS = 201
PICTURE_TASKS = 2
DOTS_PER_INCH = 130
STEP_LOOKS = (
    (0, "before adaptation", "#9e9e9e", ":"),
    (1, "after 1 step", "#7cb342", "--"),
    (10, "after 10 steps", "#1b5e20", "-"),
)


class Panel(NamedTuple):
    """One network in the sinusoid picture: its name, itself, its inner learning rate."""

    title: str
    model: nn.Module
    inner_lr: float


def sinusoid_picture(
    path: Path, settings: TrainSettings, panels: Sequence[Panel], *, seed: int
) -> None:
    """Draws each network before and after adaptation on the same tasks, beside the truth.

    Args:
        path: the PNG.
        settings: the run's settings.
        panels: the networks, one column each.
        seed: draws the tasks; one row each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    source = SinusoidTasks(settings.eval_shots, CURVE_POINTS, grid=True)
    (support, query), _ = source.draw(PICTURE_TASKS, Generator().manual_seed(seed))
    figure = Figure(figsize=(5.2 * len(panels), 3.2 * PICTURE_TASKS), layout="constrained")
    axes = figure.subplots(PICTURE_TASKS, len(panels), sharex=True, sharey="row", squeeze=False)
    for column, panel in enumerate(panels):
        curves = [
            query_losses(
                panel.model,
                support,
                query,
                loss=settings.loss,
                inner_lr=panel.inner_lr,
                inner_steps=steps,
                backend=settings.backend,
            ).logits
            for steps, *_ in STEP_LOOKS
        ]
        for row in range(PICTURE_TASKS):
            plot = axes[row, column]
            x = query[0][row, :, 0].numpy()
            plot.plot(x, query[1][row, :, 0].numpy(), color="#d32f2f", label="truth")
            for (_, label, colour, style), curve in zip(STEP_LOOKS, curves, strict=True):
                y = curve[row, :, 0].numpy()
                plot.plot(x, y, color=colour, linestyle=style, label=label)
            points = (support[0][row, :, 0].numpy(), support[1][row, :, 0].numpy())
            plot.scatter(*points, marker="^", color="#6a1b9a", zorder=3, label="support points")
        axes[0, column].set_title(f"{panel.title}, inner rate {panel.inner_lr:g}")
        axes[-1, column].set_xlabel("x")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    canvas = FigureCanvasAgg(figure)
    _write(path, canvas)


def accuracy_picture(
    path: Path, settings: TrainSettings, result: Evaluation, paper: dict[int, float]
) -> None:
    """Draws the mean accuracy and its 95% interval for every number of inner steps.

    Args:
        path: the PNG.
        settings: the run's settings.
        result: an evaluation with accuracies.
        paper: the paper's accuracy by number of steps, drawn beside.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    plot = figure.subplots()
    percent = 100 * torch.tensor(result.accuracy or ())
    interval = 100 * torch.tensor(result.accuracy_interval or ())
    steps = list(range(len(percent)))
    label = f"this run, {result.tasks} tasks"
    plot.errorbar(steps, percent.numpy(), interval.numpy(), marker="o", capsize=3, label=label)
    for step, value in paper.items():
        plot.plot([step], [100 * value], "D", color="#d32f2f", label=f"paper, {step} steps")
    plot.axhline(100 / settings.ways, color="#9e9e9e", linestyle=":", label="chance")
    plot.set(
        xlabel="inner steps",
        ylabel="test accuracy, %",
        title=(
            f"{settings.workload} {settings.ways}-way {settings.eval_shots}-shot, {settings.model}"
        ),
        ylim=(0, 102),
        xticks=steps,
    )
    plot.legend(loc="lower right")
    _write(path, FigureCanvasAgg(figure))


def _write(path: Path, canvas: object) -> None:
    picture = io.BytesIO()
    canvas.print_png(picture, metadata={"Software": None})  # type: ignore[attr-defined]
    write_atomically(path, lambda file: file.write(picture.getvalue()))
