"""The paper's experiments: networks, task sources, measurements."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from fastmaml import models
from fastmaml.calls.evaluate import Evaluation, evaluate
from fastmaml.data import (
    ImageTasks,
    OmniglotTasks,
    SinusoidTasks,
    TaskSource,
    episodes,
    load_cifar_fs,
    load_omniglot,
    split_classes,
)
from fastmaml.errors import SettingError
from fastmaml.train.baselines import evaluate_nearest, evaluate_protonet
from fastmaml.train.protocol import VALIDATION_TASKS
from fastmaml.train.settings import TrainSettings

# Tasks evaluated at once: enough rows for the kernels, activations within a few hundred MiB.
EVALUATION_BATCH = {"mlp": 100, "conv": 20}

CIFAR_SIDE = 32
PARTS = ("train", "val", "test")

# Offsets that keep a run's random streams apart; see `stream`.
STREAMS = ("init", "train", "baseline", "validation", "test", "picture")


class Sources(NamedTuple):
    """Task sources of one experiment."""

    train: TaskSource
    validation: TaskSource
    test: TaskSource


def stream(settings: TrainSettings, name: str) -> int:
    """The seed of one of the run's random streams (`STREAMS`)."""
    return settings.seed * len(STREAMS) + STREAMS.index(name)


def build_model(settings: TrainSettings) -> nn.Module:
    """The experiment's network, initialised from the run's seed; global randomness is kept.

    A prototypical network is the same without its last layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(settings, "init"))
        network = _network(settings)
    return network[:-1] if settings.method == "protonet" else network


def _network(settings: TrainSettings) -> nn.Sequential:
    if settings.workload == "sinusoid":
        return models.sinusoid_mlp(settings.init)
    if settings.workload == "cifar-fs":
        return models.conv4(settings.ways, settings.channels, CIFAR_SIDE, settings.init)
    if settings.model == "conv":
        return models.omniglot_conv(settings.ways, settings.channels, settings.init)
    return models.omniglot_mlp(settings.ways, settings.init)


def build_sources(settings: TrainSettings) -> Sources:
    """The experiment's training, validation and test tasks.

    Raises:
        SettingError: images without a data path, or data that does not fit the settings.
        FileNotFoundError: the data is not there.
    """
    if settings.workload == "sinusoid":
        held_out = SinusoidTasks(settings.eval_shots, settings.eval_query, grid=True)
        return Sources(SinusoidTasks(settings.shots, settings.query), held_out, held_out)
    if settings.data is None:
        raise SettingError(
            f"{settings.workload}: --data must name an .npz or a folder of its images, got "
            "nothing; give --data PATH or set FASTMAML_DATA."
        )
    build = _cifar_fs_tasks if settings.workload == "cifar-fs" else _omniglot_tasks
    return Sources(*build(settings))


def _points(settings: TrainSettings, part: str) -> tuple[int, int]:
    """Support and query pictures per class."""
    if part == "train":
        return settings.shots, settings.query
    return settings.eval_shots, settings.eval_query


def _omniglot_tasks(settings: TrainSettings) -> list[ImageTasks]:
    images, names = load_omniglot(settings.data or "")
    parts = split_classes(names, settings.split)
    built: list[ImageTasks] = []
    for part in PARTS:
        shots, query = _points(settings, part)
        flat = settings.model == "mlp"
        built.append(
            OmniglotTasks(
                images[parts[part]], ways=settings.ways, shots=shots, query=query, flat=flat
            )
        )
    return built


def _cifar_fs_tasks(settings: TrainSettings) -> list[ImageTasks]:
    parts = load_cifar_fs(settings.data or "", settings.split)
    built: list[ImageTasks] = []
    for part in PARTS:
        shots, query = _points(settings, part)
        built.append(ImageTasks(parts[part].images, ways=settings.ways, shots=shots, query=query))
    return built


def measure(
    model: nn.Module,
    settings: TrainSettings,
    source: TaskSource,
    *,
    name: str = "test",
    tasks: int | None = None,
    inner_steps: int | None = None,
    inner_lr: float | None = None,
) -> Evaluation:
    """Evaluates `model` on tasks from `source`, as the settings say unless told otherwise.

    Args:
        model: the network.
        settings: the run's settings.
        source: where the tasks come from.
        name: the random stream that draws them.
        tasks: number of tasks; None takes `eval_tasks`.
        inner_steps: largest number of steps; None takes `eval_steps`.
        inner_lr: None takes the settings' rate.

    Returns:
        Means and intervals for 0 to `inner_steps` steps.
    """
    drawn = episodes(
        source,
        tasks=settings.eval_tasks if tasks is None else tasks,
        batch=EVALUATION_BATCH[settings.model],
        seed=stream(settings, name),
    )
    if settings.method == "nearest":
        return evaluate_nearest(drawn)
    if settings.method == "protonet":
        return evaluate_protonet(model, drawn)
    return evaluate(
        model,
        drawn,
        inner_steps=settings.eval_steps if inner_steps is None else inner_steps,
        loss=settings.loss,
        inner_lr=settings.inner_lr if inner_lr is None else inner_lr,
        backend=settings.backend,
    )


def validation(
    model: nn.Module, settings: TrainSettings, source: TaskSource, *, shown: int
) -> tuple[float, dict[str, float]]:
    """Scores `model` on validation tasks under the protocol of the test.

    Args:
        model: the network.
        settings: the run's settings.
        source: validation tasks.
        shown: the number of inner steps whose figures are returned; 0 looks at no other.

    Returns:
        The score, lower is better: the error (1 - accuracy, or the loss of a regression) averaged
        over 1 to `eval_steps` inner steps. And figures for the learning curve.
    """
    shown = min(shown, settings.eval_steps)
    result = measure(
        model,
        settings,
        source,
        name="validation",
        tasks=VALIDATION_TASKS,
        inner_steps=settings.eval_steps if shown else 0,
    )
    figures = {"validation_loss": result.loss[shown]}
    errors = result.loss
    if result.accuracy is not None:
        figures["validation_accuracy"] = result.accuracy[shown]
        errors = tuple(1.0 - accuracy for accuracy in result.accuracy)
    adapted = errors[1:] or errors
    return sum(adapted) / len(adapted), figures
