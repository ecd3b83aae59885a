"""The settings of a training run and the paper's values for them.

`inner_lr` is on the scale of a mean loss. The authors' classification loss is ways times the mean
(a sum over the rows, divided by the shots), so their inner rate alpha is alpha * ways here: 2.0
for their Omniglot networks. Here 0.4 on the mean is the default: batch norm's scale and shift are
adapted too, and at 2.0 the accuracy of the fully connected network falls after the first step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from fastmaml.errors import SettingError

WORKLOADS = ("sinusoid", "omniglot")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that decides a run's numbers, and where its data lies.

    Attributes:
        workload: "sinusoid" or "omniglot".
        model: "mlp", the paper's network without convolutions.
        data: path of the images; None for the sinusoid.
        split: folder of train.txt, val.txt, test.txt; None for the rule of the MAML code.
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
        if known != set(values):
            raise SettingError(
                f"TrainSettings: settings must be {sorted(known)}, missing or unknown are "
                f"{sorted(known ^ set(values))}; the checkpoint is from another version."
            )
        return cls(**values)


# May change when a run is resumed: they move data or work, or lengthen the run, and leave the
# steps already taken what they were.
RESUMABLE = frozenset({"data", "iterations", "threads", "select", "eval_tasks"})


def preset(workload: str, **given: Any) -> TrainSettings:
    """The paper's settings for `workload`, with those in `given` in their place.

    Args:
        workload: "sinusoid" or "omniglot".
        **given: any field of `TrainSettings`. Others that follow from it follow: query
            sets from the shots, the learning curve's window from the iterations.

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
        "model": "mlp",
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
    else:
        many = given.get("ways", 5) >= 20
        values |= {"ways": 5, "shots": 1, "tasks": 16 if many else 32, "iterations": 60_000}
        values |= {"init": "paper", "inner_lr": 0.4, "inner_steps": 5 if many else 1}
    values |= given
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
    return _checked(replace(settings, **given))


def _checked(settings: TrainSettings) -> TrainSettings:
    at_least = dict.fromkeys(("ways", "shots", "query", "tasks", "iterations"), 1)
    at_least |= dict.fromkeys(("eval_shots", "eval_query", "eval_tasks", "window"), 1)
    at_least |= {"checkpoint_every": 1, "inner_steps": 0, "eval_steps": 0, "threads": 0, "seed": 0}
    for name, least in at_least.items():
        value = getattr(settings, name)
        if value < least:
            raise SettingError(
                f"{settings.workload}: {name} must be at least {least}, got {value}; raise it."
            )
    for name in ("inner_lr", "meta_lr"):
        value = getattr(settings, name)
        if not 0.0 < value < float("inf"):
            raise SettingError(
                f"{settings.workload}: {name} must be positive and finite, got {value}; "
                "the paper's value is the default."
            )
    return settings
