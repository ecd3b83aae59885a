"""The programs that `test_programs.py` holds to their golden texts; run it to write these anew.

`python tests/programs.py DIR` writes each text in full into a folder, for comparing two commits.
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import conv_networks
import networks
import torch

from benchmarks.workloads import WORKLOADS, Workload
from fastmaml.engine.binding import CompiledPlan, PlanSettings, Purpose
from fastmaml.losses import resolve
from fastmaml.tracing.trace import Network, trace

GOLDEN = Path(__file__).parent / "golden"
RANDOM = 200
WHOLE = ("sinusoid-1", "omniglot-mlp", "omniglot-conv")  # kept in full, not by digest alone


class Program(NamedTuple):
    """A program's text without what depends on machine or allocator, and its workspace's bytes."""

    name: str
    text: str
    workspace_bytes: int

    @property
    def instructions(self) -> int:
        return sum(line.startswith("  ") for line in self.text.splitlines())

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def line(self) -> str:
        return f"{self.name} {self.instructions} {self.workspace_bytes} {self.digest}"


def programs() -> Iterator[Program]:
    """Those of the benchmark's workloads, then random ones with random settings."""
    for workload in WORKLOADS.values():
        yield _of_workload(workload, device=False)
        yield _of_workload(workload, device=True)
    for i in range(RANDOM):
        yield _random(random.Random(i), i)


def _of_workload(workload: Workload, device: bool) -> Program:
    network = workload.network
    traced = trace(network.module(), network.row, rows=(workload.support_rows, workload.query_rows))
    settings = _settings("meta_step", torch.float32, workload.inner_steps, workload, device=device)
    name = workload.name + (" device" if device else "")
    return _program(name, traced, resolve(workload.loss), settings, workload.tasks)


def _random(draw: random.Random, i: int) -> Program:
    images = i % 2 == 1
    load = _images(draw) if images else _rows(draw)
    row = (load.inputs, load.height, load.width) if images else (load.inputs,)
    model = load.model().double()
    share = draw.choice([0.0, 0.0, 0.4, 1.0, 1.0])  # of what is frozen
    norms = draw.random() < 0.5  # but for these
    for name, parameter in list(model.named_parameters())[:-2]:
        keeps = norms and "norm" in name
        parameter.requires_grad_(draw.random() >= share or keeps)
    traced = trace(model, row, rows=(load.support_rows, load.query_rows))
    options = {
        "device": draw.random() < 0.25,
        "factored": draw.choice([-1, -1, 0, 1]),
        "recompute": draw.random() < 0.4,
        "first_order": load.first_order,
        "rate_grad": draw.random() < 0.25,
        "winograd": draw.choice([-1, -1, 0, 5, 6]),
        "moment_bytes": draw.choice([-1, -1, 0]),
        "run_pixels": draw.choice([512, 16]),
    }
    purpose = draw.choice(["meta_step", "meta_step", "meta_step", "evaluate", "curve", "adapt"])
    dtype = draw.choice([torch.float32, torch.float64])
    settings = _settings(purpose, dtype, load.inner_steps, load, **options)
    return _program(f"random {i}", traced, resolve(load.settings()["loss"]), settings, load.tasks)


def _settings(
    purpose: Purpose, dtype: torch.dtype, steps: int, load: Any, **options: Any
) -> PlanSettings:
    sweeps = purpose == "meta_step" and steps > 0
    chosen = {"first_order": False, "recompute": False, "rate_grad": False, **options}
    chosen["rate_grad"] = chosen["rate_grad"] and sweeps
    chosen["first_order"] = chosen["first_order"] or not sweeps
    chosen["recompute"] = chosen["recompute"] and not chosen["first_order"]
    return PlanSettings(
        mode=purpose,
        float64=dtype is torch.float64,
        support_rows=load.support_rows,
        query_rows=load.query_rows,
        inner_steps=steps,
        **chosen,
    )


def _program(name: str, network: Network, loss: Any, settings: PlanSettings, tasks: int) -> Program:
    plan = CompiledPlan(network, loss, settings).plan
    # A device's programs, too, as if one thread ran them: a build without CUDA can tell no more.
    text = plan.describe(tasks, 1, 0)
    text = re.sub(r" \(estimated .*\)", "", text[text.index("contractions ") :])
    return Program(name, text, plan.workspace_bytes(tasks, 1, 0))


def _rows(draw: random.Random) -> networks.Workload:
    norm = draw.choice(["none", "rows", "running", "rows"])
    least = 2 if norm == "rows" else 1
    return networks.Workload(
        inputs=draw.choice(networks.WIDTHS),
        widths=tuple(draw.choice(networks.WIDTHS) for _ in range(draw.randint(0, 4))),
        outputs=draw.choice([1, 2, 3, 5, 8, 17]),
        activation=draw.choice(list(networks.ACTIVATIONS)),
        norm=norm,  # type: ignore[arg-type]
        residual=draw.random() < 0.5,
        shared=draw.random() < 0.5,
        bias=draw.random() < 0.5,
        loss=draw.choice(["mse", "cross_entropy", "bce_with_logits"]),
        reduction=draw.choice(["mean", "mean", "sum"]),
        tasks=draw.randint(1, 40),
        support_rows=draw.randint(least, 33),
        query_rows=draw.randint(least, 33),
        inner_steps=draw.choice([0, 1, 2, 5]),
        first_order=draw.random() < 0.3,
        seed=0,
    )


def _images(draw: random.Random) -> conv_networks.ConvWorkload:
    return conv_networks.ConvWorkload(
        inputs=draw.choice([1, 2, 3, 6]),
        height=draw.randint(1, 13),
        width=draw.randint(1, 13),
        layers=tuple(
            STEM if i == 0 and draw.random() < 0.5 else _layer(draw)
            for i in range(draw.randint(1, 3))
        ),
        head=draw.choice(conv_networks.HEADS),
        outputs=draw.choice([2, 3, 5]),
        tasks=draw.randint(1, 5),
        support_rows=draw.randint(2, 7),
        query_rows=draw.randint(2, 7),
        inner_steps=draw.choice([0, 1, 1, 2]),
        first_order=draw.random() < 0.3,
        channels_last=False,
        seed=0,
    )


# What the planner folds into one where it begins a network.
STEM = conv_networks.ConvLayer(
    channels=8,
    groups=1,
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=1,
    bias=True,
    norm="batch",
    joined=False,
    activation="relu",
    pool="max",
    pool_kernel=2,
    pool_stride=2,
    pool_padding=0,
    ceil=False,
    residual=False,
)


def _layer(draw: random.Random) -> conv_networks.ConvLayer:
    pool_kernel = draw.randint(1, 3)
    pair = (draw.randint(0, 3), draw.randint(0, 3))
    return conv_networks.ConvLayer(
        channels=draw.choice([1, 2, 3, 5, 8, 16, 17, 24, 40]),
        groups=draw.choice([1, 1, 1, 2, 3, 8]),
        kernel=draw.choice([(3, 3), (draw.randint(1, 4), draw.randint(1, 4))]),
        stride=draw.choice([(1, 1), (draw.randint(1, 3), draw.randint(1, 3))]),
        padding=draw.choice(["same", pair]),
        dilation=draw.choice([1, 1, 1, 2, 3]),
        bias=draw.random() < 0.5,
        norm=draw.choice(["none", "batch", "running", "group", "instance", "layer"]),
        joined=draw.random() < 0.3,
        activation=draw.choice(list(conv_networks.ACTIVATIONS)),
        pool=draw.choice(["none", "max", "avg"]),
        pool_kernel=pool_kernel,
        pool_stride=draw.randint(1, 3),
        pool_padding=draw.randint(0, pool_kernel // 2),
        ceil=draw.random() < 0.5,
        residual=draw.random() < 0.3,
    )


def main(folder: Path | None) -> None:
    """Write the golden texts, or each program's into a folder."""
    found = list(programs())
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for program in found:
            (folder / f"{program.name.replace(' ', '-')}.txt").write_text(program.text)
        return
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "programs.txt").write_text("".join(f"{program.line()}\n" for program in found))
    for program in found:
        if program.name in WHOLE:
            (GOLDEN / f"{program.name}.txt").write_text(program.text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
