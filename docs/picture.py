"""The picture of adapted sinusoids: `python -m docs.picture [--run FOLDER]`.

It is drawn from the committed numbers, to the same bytes everywhere. With ``--run`` the numbers are
first made anew from the folder of a ``fastmaml train sinusoid`` run, which holds its baseline too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import Generator

import fastmaml
from fastmaml.data import SinusoidTasks
from fastmaml.train import experiment, trained
from fastmaml.train.pictures import STEP_LOOKS
from fastmaml.train.workloads import stream

FOLDER = Path(__file__).parent / "pictures"
NUMBERS = FOLDER / "sinusoid.json"
PICTURE = FOLDER / "sinusoid.svg"

TASKS = 2
POINTS = 101
DIGITS = 3
LEGEND_STEP = 156  # pixels between its entries
WIDTH, HEIGHT, MARGIN, TITLE = 400, 190, 16, 24  # pixels of a panel, around panels, above them
DASHES = {":": "2 4", "--": "8 4", "-": "none"}
TRUTH, SUPPORT = "#d32f2f", "#6a1b9a"


def main(arguments: list[str] | None = None) -> int:
    """Draw the picture; the exit status is 0."""
    run = arguments_parser().parse_args(arguments).run
    if run is not None:
        NUMBERS.write_text(json.dumps(numbers(run), separators=(",", ":")) + "\n")
    PICTURE.write_text(draw(json.loads(NUMBERS.read_text())))
    return 0


def arguments_parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="python -m docs.picture", description=__doc__)
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="take the numbers from this run")
    return parser


def numbers(run: Path) -> dict[str, Any]:
    """What the picture shows, from the checkpoints of a run.

    Returns:
        Plain lists: ``x`` of the curves; for each task its ``truth`` and ``support`` points; for
        each panel its title and, by task and by entry of `STEP_LOOKS`, the curve.
    """
    results = json.loads((run / experiment.RESULTS).read_text())
    model, settings, _ = trained.load(run / experiment.CHECKPOINT, {})
    baseline, *_ = trained.load(run / experiment.BASELINE_CHECKPOINT, {})
    source = SinusoidTasks(settings.eval_shots, POINTS, grid=True)
    generator = Generator().manual_seed(stream(settings, "picture"))
    (support, query), _ = source.draw(TASKS, generator)
    panels = []
    for title, network, rate in (
        ("trained with MAML", model, settings.inner_lr),
        ("trained on all tasks at once", baseline, results["baseline"]["inner_lr"]),
    ):
        curves = [
            fastmaml.adapt(
                network, support, loss=settings.loss, inner_lr=rate, inner_steps=steps
            ).predict(query[0])
            for steps, *_ in STEP_LOOKS
        ]
        by_task = [[_plain(curve[t]) for curve in curves] for t in range(TASKS)]
        panels.append({"title": f"{title}, inner rate {rate:g}", "curves": by_task})
    tasks = [
        {"truth": _plain(query[1][t]), "support": [_plain(values[t]) for values in support]}
        for t in range(TASKS)
    ]
    return {"x": _plain(query[0][0]), "tasks": tasks, "panels": panels}


def _plain(values: Any) -> list[float]:
    return [round(value, DIGITS) for value in values.flatten().tolist()]


def draw(shown: dict[str, Any]) -> str:
    """The picture as SVG: a column for each network, a row for each task.

    Args:
        shown: What `numbers` returns.

    Returns:
        The text of the file; the same numbers give the same text.
    """
    wide = MARGIN + len(shown["panels"]) * (WIDTH + MARGIN)
    high = TITLE + len(shown["tasks"]) * (HEIGHT + MARGIN) + TITLE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        'font-family="sans-serif" font-size="13">',
        "<title>Sinusoids before and after adaptation to five points</title>",
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
    ]
    for column, panel in enumerate(shown["panels"]):
        left = MARGIN + column * (WIDTH + MARGIN)
        middle = left + WIDTH // 2
        lines.append(f'<text x="{middle}" y="17" text-anchor="middle">{panel["title"]}</text>')
        for row, task in enumerate(shown["tasks"]):
            curves = [other["curves"][row] for other in shown["panels"]]
            lines_of_task = [task["truth"], *itertools.chain.from_iterable(curves)]
            tallest = max(abs(y) for line in lines_of_task for y in line)
            place = _Place(shown["x"], 1.1 * tallest, left, TITLE + row * (HEIGHT + MARGIN))
            lines += _panel(place, task, curves[column])
    lines += _legend(high - 10)
    return "\n".join([*lines, "</svg>"]) + "\n"


class _Place(NamedTuple):
    """A panel's frame: where points of a task lie in the picture."""

    x: list[float]
    tallest: float  # the y of its upper edge; all panels of a task share it
    left: int
    top: int

    def of(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across = (x - self.x[0]) / (self.x[-1] - self.x[0])
        return self.left + WIDTH * across, self.top + HEIGHT / 2 * (1 - y / self.tallest)

    def line(self, ys: list[float], colour: str, dashes: str) -> str:
        """A curve."""
        pixels = [self.of(*point) for point in zip(self.x, ys, strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8" '
            f'stroke-dasharray="{dashes}"/>'
        )


def _panel(place: _Place, task: dict[str, Any], curves: list[list[float]]) -> list[str]:
    """One task under one network."""
    lines = [
        f'<rect x="{place.left}" y="{place.top}" width="{WIDTH}" height="{HEIGHT}" fill="none" '
        'stroke="#bdbdbd"/>',
        place.line(task["truth"], TRUTH, "none"),
    ]
    for (_, _, colour, style), curve in zip(STEP_LOOKS, curves, strict=True):
        lines.append(place.line(curve, colour, DASHES[style]))
    return lines + [_triangle(*place.of(*point)) for point in zip(*task["support"], strict=True)]


def _triangle(x: float, y: float) -> str:
    return f'<path d="M{x - 5:.1f} {y + 4:.1f}h10l-5 -9z" fill="{SUPPORT}"/>'


def _legend(y: int) -> list[str]:
    """What the colours mean, on one line."""
    looks = [("truth", TRUTH, "none")]
    looks += [(label, colour, DASHES[style]) for _, label, colour, style in STEP_LOOKS]
    lines = []
    for i, (label, colour, dashes) in enumerate(looks):
        x = MARGIN + LEGEND_STEP * i
        lines += [
            f'<path d="M{x} {y - 4}h28" stroke="{colour}" stroke-width="1.8" '
            f'stroke-dasharray="{dashes}"/>',
            f'<text x="{x + 34}" y="{y}">{label}</text>',
        ]
    x = MARGIN + LEGEND_STEP * len(looks)
    return [*lines, _triangle(x + 14, y - 4), f'<text x="{x + 34}" y="{y}">support points</text>']


if __name__ == "__main__":
    sys.exit(main())
