"""The settings of a training run and the paper's values for them.

`inner_lr` is on the scale of a mean loss. The authors' classification loss is ways times the mean
(a sum over the rows, divided by the shots), so their inner rate alpha is alpha * ways here, which
`paper_inner_lr` gives: 2.0 for their Omniglot networks, 0.05 for miniImageNet's. For Omniglot 0.4
on the mean is the default: batch norm's scale and shift are adapted too, and at 2.0 the fully
connected network loses accuracy after the first step and the convolutional one learns slowly.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal

from fastmaml.errors import SettingError

WORKLOADS = ("sinusoid", "omniglot", "cifar-fs")
MODELS = {"sinusoid": ("mlp",), "omniglot": ("conv", "mlp"), "cifar-fs": ("conv",)}
CHANNELS = {"omniglot": 64, "cifar-fs": 32}
PAPER = "paper"

_NO_STEPS = frozenset({"inner_lr", "inner_steps", "first_order", "eval_steps"})
# What each method leaves unused, and must therefore not be given.
UNUSED = {
    "maml": frozenset[str](),
    "protonet": _NO_STEPS,
    "nearest": _NO_STEPS
    | {"iterations", "tasks", "meta_lr", "init", "clip", "channels", "select", "checkpoint_every"},
}


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that decides a run's numbers, and where its data lies.

    Attributes:
        workload: "sinusoid", "omniglot" or "cifar-fs".
        model: "conv", the paper's four convolutions, or "mlp", its network without any.
        data: path of the images; None for the sinusoid.
        split: folder of train.txt, val.txt, test.txt; None for the rule of the MAML code
            (Omniglot) or the official split (CIFAR-FS).
        ways: classes per task; 1 for regression.
        shots: support points (per class) in training.
        query: query points (per class) in training.
        tasks: tasks per meta-step.
        iterations: meta-steps.
        init: "paper" or "torch", see `fastmaml.models`.
        inner_lr: inner learning rate on the mean loss.
        inner_steps: inner steps in training.
        first_order: drop the second derivatives.
        meta_lr: Adam's learning rate.
        seed: seeds initialisation and all task streams.
        backend: "auto", "fused" or "reference".
        threads: torch threads; 0 leaves torch's default.
        eval_shots: support points (per class) in the evaluation.
        eval_query: query points (per class) in the evaluation.
        eval_tasks: test tasks.
        eval_steps: largest number of inner steps in the evaluation.
        select: which iterate is tested: the "last", or the best of some twenty by "validation".
        baseline: also pretrain on all tasks (sinusoid), for comparison.
        window: meta-steps that make one point of the learning curve.
        checkpoint_every: meta-steps between checkpoints.
        channels: of each convolution; 0 without convolutions.
        clip: largest size of an entry of the meta-gradient; 0 clips nothing.
        method: "maml", "protonet" or "nearest", see `fastmaml.train.baselines`.
    """

    workload: str
    model: str
    data: str | None
    split: str | None
    ways: int
    shots: int
    query: int
    tasks: int
    iterations: int
    init: Literal["paper", "torch"]
    inner_lr: float
    inner_steps: int
    first_order: bool
    meta_lr: float
    seed: int
    backend: Literal["auto", "fused", "reference"]
    threads: int
    eval_shots: int
    eval_query: int
    eval_tasks: int
    eval_steps: int
    select: Literal["last", "validation"]
    baseline: bool
    window: int
    checkpoint_every: int
    channels: int = 0
    clip: float = 0.0
    method: Literal["maml", "protonet", "nearest"] = "maml"

    @property
    def loss(self) -> str:
        """The loss, by the name `fastmaml.meta_step` knows it."""
        return "mse" if self.workload == "sinusoid" else "cross_entropy"

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainSettings:
        """Settings from `as_dict`'s values.

        Raises:
            SettingError: a setting is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        # Settings with a default came later: checkpoints without them mean the default.
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        wrong = (needed - set(values)) | (set(values) - known)
        if wrong:
            raise SettingError(
                f"TrainSettings: settings must be {sorted(known)}, missing or unknown are "
                f"{sorted(wrong)}; the checkpoint is from another version."
            )
        return cls(**values)


# May change when a run is resumed: they move data or work, or lengthen the run, and leave the
# steps already taken what they were.
RESUMABLE = frozenset({"data", "split", "iterations", "threads", "select", "eval_tasks"})


def paper_inner_lr(workload: str, ways: int) -> float:
    """The paper's inner rate, brought from its loss (ways times the mean) to the mean loss.

    Args:
        workload: as in `TrainSettings`.
        ways: N, classes per task. The paper's rate on its own loss is 0.4 for Omniglot (0.1 from
            20 ways on) and 0.01 for miniImageNet, which stands for CIFAR-FS here.

    Returns:
        The rate that takes the paper's inner step on the mean loss.

    Example:
        >>> paper_inner_lr("omniglot", 5), paper_inner_lr("omniglot", 20)
        (2.0, 2.0)
    """
    if workload == "sinusoid":
        return 0.01
    if workload == "cifar-fs":
        return ways * 0.01
    return ways * (0.1 if ways >= 20 else 0.4)


def preset(workload: str, **given: Any) -> TrainSettings:
    """The paper's settings for `workload`, with those in `given` in their place.

    Args:
        workload: "sinusoid", "omniglot" or "cifar-fs".
        **given: any field of `TrainSettings`; "paper" as `inner_lr` takes `paper_inner_lr`.
            Others that follow from it follow: query sets from the shots, the learning curve's
            window from the iterations.

    Returns:
        Complete settings.

    Raises:
        SettingError: a value is out of its range or `workload` is unknown.

    Source: Finn, Abbeel, Levine 2017, appendix A, and the authors' code.

    Example:
        >>> from fastmaml.train import preset
        >>> preset("omniglot", ways=5, shots=3).query
        3
    """
    if workload not in WORKLOADS:
        raise SettingError(
            f"preset: workload must be one of {', '.join(WORKLOADS)}, got {workload!r}; "
            "choose one of them."
        )
    values: dict[str, Any] = {
        "workload": workload,
        "model": MODELS[workload][0],
        "data": None,
        "split": None,
        "inner_steps": 1,
        "first_order": False,
        "meta_lr": 1e-3,
        "seed": 0,
        "backend": "auto",
        "threads": 0,
        "eval_tasks": 600,
        "eval_steps": 10,
        "select": "validation",
        "baseline": workload == "sinusoid",
        "checkpoint_every": 1000,
    }
    if workload == "sinusoid":
        values |= {"ways": 1, "shots": 10, "tasks": 25, "iterations": 70_000, "inner_lr": 0.01}
        values |= {"init": "torch", "eval_shots": 5, "eval_query": 100}
    elif workload == "cifar-fs":
        values |= {"ways": 5, "shots": 1, "query": 15, "tasks": 4, "iterations": 60_000}
        values |= {"init": "paper", "inner_lr": PAPER, "inner_steps": 5, "clip": 10.0}
    else:
        many = given.get("ways", 5) >= 20
        values |= {"ways": 5, "shots": 1, "tasks": 16 if many else 32, "iterations": 60_000}
        values |= {"init": "paper", "inner_lr": 0.4, "inner_steps": 5 if many else 1}
    _check_method(workload, given.get("method", "maml"), given)
    if given.get("method", "maml") != "maml":
        values |= {"inner_steps": 0, "eval_steps": 0}
    values |= given
    if values["inner_lr"] == PAPER:
        values["inner_lr"] = paper_inner_lr(workload, values["ways"])
    values.setdefault("channels", CHANNELS[workload] if values["model"] == "conv" else 0)
    values.setdefault("query", values["shots"])
    values.setdefault("eval_shots", values["shots"])
    values.setdefault("eval_query", values["query"])
    values.setdefault("window", max(1, values["iterations"] // 200))
    return _checked(TrainSettings.from_dict(values))


def resumed(saved: TrainSettings, given: dict[str, Any]) -> TrainSettings:
    """The settings of a run that goes on: the saved ones, changed where that is allowed.

    Args:
        saved: the checkpoint's settings.
        given: what the user asks for now.

    Returns:
        Settings that continue the saved run.

    Raises:
        SettingError: `given` differs from `saved` in what must stay, or a value is
            out of its range.
    """
    if given.get("inner_lr") == PAPER:
        given = given | {"inner_lr": paper_inner_lr(saved.workload, saved.ways)}
    for name, value in given.items():
        if name not in RESUMABLE and value != getattr(saved, name):
            raise SettingError(
                f"resume: {name} must stay {getattr(saved, name)!r} as in the checkpoint, got "
                f"{value!r}; leave it out, or start a new run in another folder."
            )
    return _checked(replace(saved, **given))


def changed(settings: TrainSettings, given: dict[str, Any]) -> TrainSettings:
    """Settings with those in `given` in their place.

    Raises:
        SettingError: a value is out of its range.
    """
    _check_method(settings.workload, settings.method, given)
    return _checked(replace(settings, **given))


def _check_method(workload: str, method: str, given: dict[str, Any]) -> None:
    methods = ("maml",) if workload == "sinusoid" else tuple(UNUSED)
    if method not in methods:
        raise SettingError(
            f"{workload}: method must be one of {', '.join(methods)}, got {method!r}; "
            "choose one of them."
        )
    unused = sorted(UNUSED[method] & set(given))
    if unused:
        raise SettingError(
            f"{workload}: method {method} must be without {unused[0]}, which it does not use; "
            "leave it out."
        )


def _checked(settings: TrainSettings) -> TrainSettings:
    if settings.model not in MODELS[settings.workload]:
        raise SettingError(
            f"{settings.workload}: model must be one of {', '.join(MODELS[settings.workload])}, "
            f"got {settings.model!r}; choose one of them."
        )
    convolves = settings.model == "conv"
    if not convolves and settings.channels:
        raise SettingError(
            f"{settings.workload}: channels belong to model conv, got {settings.channels} for "
            f"model {settings.model}; leave them out."
        )
    at_least = dict.fromkeys(("ways", "shots", "query", "tasks", "iterations"), 1)
    at_least |= dict.fromkeys(("eval_shots", "eval_query", "eval_tasks", "window"), 1)
    at_least |= {"checkpoint_every": 1, "inner_steps": 0, "eval_steps": 0, "threads": 0, "seed": 0}
    at_least["channels"] = int(convolves)
    for name, least in at_least.items():
        value = getattr(settings, name)
        if value < least:
            raise SettingError(
                f"{settings.workload}: {name} must be at least {least}, got {value}; raise it."
            )
    if not 0.0 <= settings.clip < float("inf"):
        raise SettingError(
            f"{settings.workload}: clip must be at least 0 and finite, got {settings.clip}; "
            "0 clips nothing."
        )
    for name in ("inner_lr", "meta_lr"):
        value = getattr(settings, name)
        if not 0.0 < value < float("inf"):
            raise SettingError(
                f"{settings.workload}: {name} must be positive and finite, got {value}; "
                "the paper's value is the default."
            )
    return settings
