"""How a run was done, in words, and what the paper reports for it."""

from __future__ import annotations

from typing import Any

from fastmaml.train.settings import TrainSettings

VALIDATION_TASKS = 300

# Inner steps -> the paper's figure, for the settings it was published with.
PAPER_SINUSOID_MAML = {1: 0.67, 5: 0.38, 10: 0.35}
PAPER_SINUSOID_PRETRAINED = {1: 2.41, 5: 2.23, 10: 2.19}
PAPER_OMNIGLOT = {
    ("mlp", 5, 1): {3: 0.897},
    ("mlp", 5, 5): {3: 0.975},
    ("conv", 5, 1): {3: 0.987},
    ("conv", 5, 5): {3: 0.999},
    ("conv", 20, 1): {5: 0.958},
    ("conv", 20, 5): {5: 0.989},
}

INITIALISATIONS = {
    "sinusoid": "weights truncated normal 0.01, biases 0, as in the authors' code",
    "mlp": "weights truncated normal 0.01, biases 0, as in the authors' code",
    "conv": "Xavier convolutions, biases 0, last layer normal 1.0, as in the authors' code",
    "cifar-fs": "Xavier convolutions, biases 0, last layer truncated normal 0.01",
}

IMAGES = {
    "omniglot": {
        "images": "28 x 28, ink 1",
        "classes": "classes turned by 0, 90, 180 or 270 degrees, drawn per class and task",
        "split": "sorted class names, random.Random(1).shuffle, 1100 train, 100 val, 423 test",
    },
    "cifar-fs": {
        "images": "32 x 32, red, green and blue over 255",
        "classes": "upright",
        "split": "of the files",
    },
}


# Words that differ for the baselines; None where there is nothing to say.
METHODS: dict[str, dict[str, Any]] = {
    "maml": {},
    "protonet": {
        "method": "prototypical network: squared Euclidean distance to the class means",
        "inner_lr": None,
        "batch_norm": (
            "statistics of each task's pictures always, support and query together "
            "(transductive), epsilon 1e-3"
        ),
    },
    "nearest": {
        "method": "class of the support picture with the most similar pixels (cosine)",
        "meta_training": None,
        "initialisation": None,
        "iterate": None,
        "inner_lr": None,
        "train_images": None,
        "batch_norm": None,
    },
}


def paper_figures(settings: TrainSettings) -> dict[int, float]:
    """The paper's figure after some numbers of steps: MSE, or accuracy in 0..1. May be empty."""
    if settings.workload == "sinusoid":
        return PAPER_SINUSOID_MAML if settings.eval_shots == 5 else {}
    if settings.workload == "cifar-fs" or settings.method != "maml":
        return {}
    return PAPER_OMNIGLOT.get((settings.model, settings.ways, settings.eval_shots), {})


def protocol(settings: TrainSettings) -> dict[str, Any]:
    """How training and evaluation were done, in words, for the results file."""
    order = "first order" if settings.first_order else "second order"
    clip = f", entries clipped to +-{settings.clip:g}" if settings.clip else ""
    words: dict[str, Any] = {
        "meta_training": (
            f"{settings.iterations} iterations of {settings.tasks} tasks, {order}, Adam "
            f"{settings.meta_lr:g}, {settings.inner_steps} inner step(s), loss averaged over "
            f"tasks{clip}"
        ),
        "initialisation": _initialisation(settings),
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
    return words | _image_words(settings) | METHODS[settings.method]


def _image_words(settings: TrainSettings) -> dict[str, Any]:
    told = IMAGES[settings.workload]
    return {
        "task": f"{settings.ways}-way {settings.eval_shots}-shot {settings.workload}",
        "images": told["images"],
        "classes": told["classes"],
        "split": settings.split or told["split"],
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


def _initialisation(settings: TrainSettings) -> str:
    if settings.init == "torch":
        return "torch's default for every layer"
    return INITIALISATIONS.get(settings.workload) or INITIALISATIONS[settings.model]
