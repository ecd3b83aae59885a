"""A complete run: train, evaluate, draw, and write the results; each part resumes if it must."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from fastmaml.calls.evaluate import Evaluation
from fastmaml.errors import SettingError
from fastmaml.train import checkpoint, pictures, protocol, workloads
from fastmaml.train.baselines import BACKEND
from fastmaml.train.loop import Run, train
from fastmaml.train.machine import machine, versions
from fastmaml.train.settings import TrainSettings, resumed
from fastmaml.train.workloads import Sources, stream

CHECKPOINT = "checkpoint.pt"
BASELINE_CHECKPOINT = "baseline.pt"
RESULTS = "results.json"
DEMO = ".demo"  # marks a folder whose runs may be overwritten

# Rates tried for the pretrained network, whose step size the paper calls automatically tuned.
BASELINE_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)


def run(
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    given: dict[str, Any] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Trains, evaluates, and writes checkpoint, results.json and a PNG into `out`.

    Args:
        settings: what to run; with `resume` only its workload counts.
        out: the folder, made when missing.
        resume: go on from the checkpoints in `out`, with their settings.
        overwrite: start anew even where `out` holds a run that was started so.
        given: with `resume`, settings asked for anew; only some may differ.
        command: the command line, for the results file.

    Returns:
        What results.json holds, with its place under "files".

    Raises:
        SettingError: a new run would overwrite a checkpoint, or settings do not fit.
        FileNotFoundError: data or, with `resume`, the checkpoint is missing.
        StoppedError: stopped by a signal, ready to be resumed.
    """
    with checkpoint.own_folder(out):
        return _run(settings, out, resume, overwrite, given or {}, command)


def _run(
    settings: TrainSettings,
    out: Path,
    resume: bool,
    overwrite: bool,
    given: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    path = out / CHECKPOINT
    saved = _saved(path, settings, resume, overwrite)
    if saved is not None:
        settings = resumed(TrainSettings.from_dict(saved["settings"]), given)
        if settings.iterations < saved["iteration"]:
            raise SettingError(
                f"resume: iterations must be at least {saved['iteration']}, which the run in {out} "
                f"has taken, got {settings.iterations}; give more, or leave it out."
            )
    if overwrite:
        (out / DEMO).touch()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    sources = workloads.build_sources(settings)
    if settings.method == "nearest":
        return _untrained(settings, sources, out, command)
    main = _trained(settings, sources, path, saved, title=settings.workload, stream_name="train")
    start = time.perf_counter()
    test = workloads.measure(main.model, settings, sources.test)
    results = _results(settings, main, test, command)
    results["files"] = {"results": str(out / RESULTS), "checkpoint": str(path)}
    panels = [pictures.Panel("MAML", main.model, settings.inner_lr)]
    if settings.baseline:
        results["baseline"], panel = _baseline(settings, sources, out, resume)
        panels.append(panel)
    results["wall_time_s"]["after_training"] = time.perf_counter() - start
    write_json(out / RESULTS, results)
    if settings.method == "maml":
        try:
            _draw(settings, out, panels, test, results)
        except Exception as error:  # a backend or font that is not there, say: figures are safe
            results["picture_error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        results["wall_time_s"]["after_training"] = time.perf_counter() - start
        write_json(out / RESULTS, results)
    return results


def _draw(
    settings: TrainSettings,
    out: Path,
    panels: list[pictures.Panel],
    test: Evaluation,
    results: dict[str, Any],
) -> None:
    """The run's picture, and its place in the results."""
    picture = out / f"{settings.workload}.png"
    if settings.workload == "sinusoid":
        pictures.sinusoid_picture(picture, settings, panels, seed=stream(settings, "picture"))
    else:
        pictures.accuracy_picture(picture, settings, test, protocol.paper_figures(settings))
    results["files"]["picture"] = str(picture)


def _untrained(
    settings: TrainSettings, sources: Sources, out: Path, command: str
) -> dict[str, Any]:
    """The test of a method that learns nothing."""
    idle = Run(workloads.build_model(settings), settings, stream(settings, "train"))
    idle.backend = BACKEND
    test = workloads.measure(idle.model, settings, sources.test)
    results = _results(settings, idle, test, command)
    results["files"] = {"results": str(out / RESULTS)}
    write_json(out / RESULTS, results)
    return results


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Writes `results` as JSON, atomically; numbers that are not finite become null."""
    text = json.dumps(_finite(results), indent=1, allow_nan=False) + "\n"
    checkpoint.write_atomically(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _saved(
    path: Path, settings: TrainSettings, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    if not resume:
        if path.exists() and not (overwrite and (path.parent / DEMO).exists()):
            raise SettingError(
                f"train: {path.parent} must not hold a run already, {path.name} is there; "
                "continue it with --resume, or choose another --out."
            )
        return None
    saved = checkpoint.load(path)
    if saved["settings"]["workload"] != settings.workload:
        raise SettingError(
            f"resume: the run in {path.parent} must be {settings.workload}, it is "
            f"{saved['settings']['workload']}; train that one, or choose another --out."
        )
    return saved


def _trained(
    settings: TrainSettings,
    sources: Sources,
    path: Path,
    saved: dict[str, Any] | None,
    *,
    title: str,
    stream_name: str,
) -> Run:
    """A run trained to its end, from `saved` or from the start, holding the iterate to test."""
    pretrain = stream_name == "baseline"
    inner_steps = 0 if pretrain else settings.inner_steps

    current = Run(workloads.build_model(settings), settings, stream(settings, stream_name))
    if saved is not None:
        current.restore(saved)
    train(
        current,
        sources.train,
        path,
        title=title,
        inner_steps=inner_steps,
        validate=lambda model: workloads.validation(
            model, settings, sources.validation, shown=inner_steps
        ),
    )
    if settings.select == "validation" and current.best is not None:
        current.model.load_state_dict(current.best["model"])
    return current


def _baseline(
    settings: TrainSettings, sources: Sources, out: Path, resume: bool
) -> tuple[dict[str, Any], pictures.Panel]:
    """The multi-task baseline: one network trained on all tasks at once, then fine-tuned.

    Its inner rate is the one of `BASELINE_RATES` with the lowest validation error at the end.
    """
    path = out / BASELINE_CHECKPOINT
    saved = checkpoint.load(path) if resume and path.exists() else None
    trained = _trained(
        settings, sources, path, saved, title="pretrained baseline", stream_name="baseline"
    )
    errors: dict[float, float] = {}
    for rate in BASELINE_RATES:
        tried = workloads.measure(
            trained.model,
            settings,
            sources.validation,
            name="validation",
            tasks=protocol.VALIDATION_TASKS,
            inner_lr=rate,
        )
        errors[rate] = tried.loss[-1] if math.isfinite(tried.loss[-1]) else math.inf
    rate = min(errors, key=lambda candidate: errors[candidate])
    test = workloads.measure(trained.model, settings, sources.test, inner_lr=rate)
    figures = {
        "what": "the same network pretrained on all tasks, then fine-tuned per task",
        "inner_lr": rate,
        "inner_lr_choice": f"lowest validation error of {list(BASELINE_RATES)}",
        "figures": test.as_dict(),
        "paper": {str(k): v for k, v in protocol.PAPER_SINUSOID_PRETRAINED.items()},
        "wall_time_s": trained.seconds,
        "curve": trained.curve,
    }
    return figures, pictures.Panel("pretrained on all tasks", trained.model, rate)


def _results(
    settings: TrainSettings, trained: Run, test: Evaluation, command: str
) -> dict[str, Any]:
    tasks = trained.iteration * settings.tasks
    return {
        "command": command,
        "settings": settings.as_dict(),
        "protocol": protocol.protocol(settings),
        "figures": test.as_dict(),
        "tested_iteration": trained.best["iteration"]
        if settings.select == "validation" and trained.best
        else trained.iteration,
        "paper": {str(k): v for k, v in protocol.paper_figures(settings).items()},
        "wall_time_s": {"training": trained.seconds, "sampling": trained.sampling_seconds},
        "tasks_per_s": tasks / trained.seconds if trained.seconds else None,
        "backend": trained.backend,
        "versions": versions(),
        "machine": machine(),
        "curve": trained.curve,
    }
