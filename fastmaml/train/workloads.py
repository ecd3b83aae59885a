"""The paper's experiments: network, task sources, protocol in words, and the paper's figures."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from fastmaml import models
from fastmaml.data import (
    OmniglotTasks,
    SinusoidTasks,
    TaskSource,
    episodes,
    load_omniglot,
    split_classes,
)
from fastmaml.errors import SettingError
from fastmaml.evaluate import Evaluation, evaluate
from fastmaml.train.settings import TrainSettings

EVALUATION_BATCH = 100
VALIDATION_TASKS = 300

# Offsets that keep a run's random streams apart; see `stream`.
STREAMS = ("init", "train", "baseline", "validation", "test", "picture")

# Inner steps -> the paper's figure, for the settings it was published with.
PAPER_SINUSOID_MAML = {1: 0.67, 5: 0.38, 10: 0.35}
PAPER_SINUSOID_PRETRAINED = {1: 2.41, 5: 2.23, 10: 2.19}
PAPER_OMNIGLOT_MLP = {(5, 1): {3: 0.897}, (5, 5): {3: 0.975}}


class Sources(NamedTuple):
    """Task sources of one experiment."""

    train: TaskSource
    validation: TaskSource
    test: TaskSource


def stream(settings: TrainSettings, name: str) -> int:
    """The seed of one of the run's random streams (`STREAMS`)."""
    return settings.seed * len(STREAMS) + STREAMS.index(name)


def build_model(settings: TrainSettings) -> nn.Module:
    """The experiment's network, initialised from the run's seed; global randomness is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(settings, "init"))
        if settings.workload == "sinusoid":
            return models.sinusoid_mlp(settings.init)
        return models.omniglot_mlp(settings.ways, settings.init)


def build_sources(settings: TrainSettings) -> Sources:
    """The experiment's training, validation and test tasks.

    Raises:
        SettingError: Omniglot without a data path, or data that does not fit the settings.
        FileNotFoundError: the data is not there.
    """
    if settings.workload == "sinusoid":
        held_out = SinusoidTasks(settings.eval_shots, settings.eval_query, grid=True)
        return Sources(SinusoidTasks(settings.shots, settings.query), held_out, held_out)
    if settings.data is None:
        raise SettingError(
            "omniglot: --data must name an .npz or a folder of Omniglot, got nothing; "
            "give --data PATH or set FASTMAML_DATA."
        )
    images, names = load_omniglot(settings.data)
    parts = split_classes(names, settings.split)
    built = {
        part: OmniglotTasks(
            images[classes],
            ways=settings.ways,
            shots=settings.shots if part == "train" else settings.eval_shots,
            query=settings.query if part == "train" else settings.eval_query,
        )
        for part, classes in parts.items()
    }
    return Sources(built["train"], built["val"], built["test"])


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
    return evaluate(
        model,
        episodes(
            source,
            tasks=settings.eval_tasks if tasks is None else tasks,
            batch=EVALUATION_BATCH,
            seed=stream(settings, name),
        ),
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


def paper_figures(settings: TrainSettings) -> dict[int, float]:
    """The paper's figure after some numbers of steps: MSE, or accuracy in 0..1. May be empty."""
    if settings.workload == "sinusoid":
        return PAPER_SINUSOID_MAML if settings.eval_shots == 5 else {}
    return PAPER_OMNIGLOT_MLP.get((settings.ways, settings.eval_shots), {})


def protocol(settings: TrainSettings) -> dict[str, Any]:
    """How training and evaluation were done, in words, for the results file."""
    order = "first order" if settings.first_order else "second order"
    words: dict[str, Any] = {
        "meta_training": (
            f"{settings.iterations} iterations of {settings.tasks} tasks, {order}, Adam "
            f"{settings.meta_lr:g}, {settings.inner_steps} inner step(s), loss averaged over tasks"
        ),
        "initialisation": {
            "paper": "weights truncated normal 0.01, biases 0, as in the authors' code",
            "torch": "torch's default for linear layers",
        }[settings.init],
        "evaluation": f"{settings.eval_tasks} tasks, 0 to {settings.eval_steps} inner steps",
        "interval": "95%: 1.96 std / sqrt(tasks), population std",
        "iterate": {
            "last": "the last one is tested",
            "validation": (
                f"the one of twenty with the lowest validation error is tested: mean over 1 to "
                f"{settings.eval_steps} inner steps and {VALIDATION_TASKS} tasks that are not test "
                "tasks"
            ),
        }[settings.select],
    }
    if settings.workload == "sinusoid":
        words |= {
            "task": "y = A sin(x - phi), A ~ U[0.1, 5], phi ~ U[0, pi], x ~ U[-5, 5]",
            "inner_lr": f"{settings.inner_lr:g} on the mean squared error",
            "train_points": f"{settings.shots} support, {settings.query} random query",
            "test_points": (
                f"{settings.eval_shots} random support, {settings.eval_query} query points evenly "
                "spaced over [-5, 5]"
            ),
        }
        return words
    words |= {
        "task": f"{settings.ways}-way {settings.eval_shots}-shot Omniglot, 28 x 28, ink 1",
        "classes": "classes turned by 0, 90, 180 or 270 degrees, drawn per class and task",
        "split": settings.split
        or "sorted class names, random.Random(1).shuffle, 1100 train, 100 val, 423 test",
        "inner_lr": (
            f"{settings.inner_lr:g} on the mean cross-entropy, which is "
            f"{settings.inner_lr / settings.ways:g} on the summed scale of the authors' code"
        ),
        "train_images": f"{settings.shots} support, {settings.query} query per class",
        "test_images": f"{settings.eval_shots} support, {settings.eval_query} query per class",
        "batch_norm": (
            "statistics of the batch always, support and query apart (transductive), epsilon "
            "1e-3; scale and shift are adapted and meta-trained"
        ),
    }
    return words
