"""The command line: ``fastmaml train | evaluate | bench | verify | info``.

Every mistake in the arguments ends in one sentence on standard error and exit code 2; a run
stopped by a signal ends with 130 and the command that continues it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fastmaml.arguments import (
    MOST_SEED,
    MOST_STEPS,
    MOST_THREADS,
    inner_rate,
    positive,
    whole,
)
from fastmaml.errors import (
    BackendError,
    DeviceError,
    DtypeError,
    SettingError,
    ShapeError,
    UnsupportedModelError,
)

USER_ERRORS = (
    BackendError,
    DeviceError,
    DtypeError,
    SettingError,
    ShapeError,
    UnsupportedModelError,
    OSError,
)
BACKENDS = ("auto", "fused", "reference")
DEMO = {"iterations": 25_000, "eval_tasks": 600}
STOPPED = 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage block."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: the words after the program's name; None takes `sys.argv`.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 when stopped.

    Raises:
        SystemExit: argparse ends the program after ``--help`` (0) or a bad argument (2).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What follows `bench` belongs to the benchmarks; argparse would take its options for ours.
    passes_on = words[:1] == ["bench"] and words[1:2] not in (["-h"], ["--help"])
    options = vars(_parser().parse_args(words[:1] if passes_on else words))
    command: Callable[[dict[str, Any]], int] = options.pop("command")
    options["words"] = words
    try:
        return command(options)
    except USER_ERRORS as error:
        print(f"fastmaml: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastmaml: stopped.", file=sys.stderr)
        return STOPPED


def _parser() -> _Parser:
    parser = _Parser(prog="fastmaml", description="Fused meta-steps for few-shot learning.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="run one of the paper's experiments")
    workloads = train.add_subparsers(required=True, metavar="WORKLOAD")
    _sinusoid_parser(workloads.add_parser("sinusoid", help="sinusoid regression, 1-40-40-1"))
    _omniglot_parser(workloads.add_parser("omniglot", help="few-shot Omniglot"))
    _cifar_fs_parser(workloads.add_parser("cifar-fs", help="few-shot CIFAR-100 pictures"))

    evaluate = commands.add_parser(
        "evaluate", help="test a checkpoint", argument_default=argparse.SUPPRESS
    )
    evaluate.add_argument("checkpoint", type=Path, help="checkpoint.pt of a training run")
    evaluate.add_argument("--data", metavar="PATH", help="where the images lie now")
    evaluate.add_argument("--split", metavar="DIR", help="where the class lists lie now")
    evaluate.add_argument(
        "--seed", type=whole(0, MOST_SEED), metavar="N", help="draws other test tasks"
    )
    evaluate.add_argument("--inner-lr", type=positive, metavar="RATE", help="on the mean loss")
    evaluate.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    _evaluation_options(evaluate)
    evaluate.set_defaults(command=_evaluate)

    verify = commands.add_parser("verify", help="compare the engine with the float64 reference")
    verify.add_argument("checkpoint", type=Path, nargs="?", help="default: a fresh sinusoid net")
    verify.add_argument("--data", metavar="PATH", help="where the images lie now")
    verify.set_defaults(command=_verify)

    bench = commands.add_parser("bench", help="run the benchmarks of the source tree")
    bench.add_argument("rest", nargs=argparse.REMAINDER, help="passed on to the benchmarks")
    bench.set_defaults(command=_bench)

    commands.add_parser("info", help="versions and what the engine found").set_defaults(
        command=_info
    )
    return parser


def _evaluation_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("evaluation").add_argument
    add(
        "--eval-shots",
        type=whole(1),
        metavar="N",
        help="support points per class (sinusoid 5, else --shots)",
    )
    add(
        "--eval-query",
        type=whole(1),
        metavar="N",
        help="query points per class (sinusoid 100, else --query)",
    )
    add("--eval-tasks", type=whole(1), metavar="N", help="test tasks (600)")
    add(
        "--eval-steps",
        type=whole(0, MOST_STEPS),
        metavar="N",
        help="measure 0 to this many inner steps (10)",
    )
    choices = ("last", "validation")
    add("--select", choices=choices, help="test the last iterate, or the best by validation")
    add(
        "--threads",
        type=whole(1, MOST_THREADS),
        metavar="N",
        help="torch threads (torch's default)",
    )
    add("--backend", choices=BACKENDS, help="what computes the meta-steps (auto)")


def _train_options(parser: argparse.ArgumentParser, workload: str, init: str, rate: str) -> None:
    # SUPPRESS keeps what was not given out of the namespace: a preset or checkpoint fills it.
    parser.set_defaults(command=_train, workload=workload)
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help=f"folder of the results (runs/{workload})")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--iterations", type=whole(1), metavar="N", help="meta-steps")
    add("--tasks", type=whole(1), metavar="N", help="tasks per meta-step")
    add("--shots", type=whole(1), metavar="N", help="support points (per class)")
    add(
        "--query",
        type=whole(1),
        metavar="N",
        help="query points (per class); default: as --shots, cifar-fs 15",
    )
    add("--inner-lr", type=inner_rate, metavar="RATE", help=rate)
    add("--inner-steps", type=whole(0, MOST_STEPS), metavar="N", help="inner steps in training")
    add("--first-order", action="store_true", help="drop the second derivatives")
    add("--meta-lr", type=positive, metavar="RATE", help="Adam's learning rate (0.001)")
    add("--init", choices=("paper", "torch"), help=f"initialisation ({init})")
    add("--seed", type=whole(0, MOST_SEED), metavar="N", help="initialisation and tasks (0)")
    add(
        "--checkpoint-every",
        type=whole(1),
        metavar="N",
        help="meta-steps between checkpoints (1000)",
    )
    _evaluation_options(parser)


def _sinusoid_parser(parser: argparse.ArgumentParser) -> None:
    _train_options(parser, "sinusoid", "torch", "on the mean squared error (0.01)")
    parser.add_argument("--demo", action="store_true", help="a short run worth looking at")
    parser.add_argument(
        "--no-baseline",
        action="store_false",
        dest="baseline",
        help="without the network pretrained on all tasks",
    )


def _omniglot_parser(parser: argparse.ArgumentParser) -> None:
    rate = (
        "on the mean cross-entropy (0.4), or the word paper: 2.0, the step of the authors' code, "
        "whose loss is N times the mean (5 ways 0.4, 20 ways 0.1 there)"
    )
    _train_options(parser, "omniglot", "paper", rate)
    add = parser.add_argument
    add(
        "--model",
        choices=("conv", "mlp"),
        help="conv: 4 convolutions and a linear layer (default); mlp: 784-256-128-64-64-N",
    )
    add("--data", metavar="PATH", help=".npz or folder of Omniglot (FASTMAML_DATA)")
    _image_options(parser, "64", "the rule of the MAML code")


def _cifar_fs_parser(parser: argparse.ArgumentParser) -> None:
    rate = (
        "on the mean cross-entropy (0.05 for 5 ways, the paper's 0.01 on its loss, which is N "
        "times the mean)"
    )
    _train_options(parser, "cifar-fs", "paper", rate)
    add = parser.add_argument
    add("--data", metavar="DIR", help="folder of .npz files or pictures (FASTMAML_DATA)")
    add("--clip", type=positive, metavar="SIZE", help="largest entry of the meta-gradient (10)")
    _image_options(parser, "32", "the official one")


def _image_options(parser: argparse.ArgumentParser, channels: str, split: str) -> None:
    add = parser.add_argument
    add(
        "--method",
        choices=("maml", "protonet", "nearest"),
        help="what learns: MAML (default), a prototypical network, or nothing (nearest pixels)",
    )
    add("--channels", type=whole(1), metavar="N", help=f"of each convolution ({channels})")
    add("--ways", type=whole(1), metavar="N", help="classes per task (5)")
    add("--split", metavar="DIR", help=f"folder of train.txt, val.txt, test.txt ({split})")


def _train(options: dict[str, Any]) -> int:
    for package in ("tqdm", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise SettingError(
                f"train: the package {package} must be installed, it is not; "
                'pip install "fastmaml[train]".'
            )
    from fastmaml.train import StoppedError, preset, run

    workload = options.pop("workload")
    words = options.pop("words")
    resume = options.pop("resume", False)
    method = options.get("method", "maml")
    folder = workload if method == "maml" else f"{workload}-{method}"
    demo = options.pop("demo", False)
    out = options.pop("out", Path("runs") / (f"{folder}-demo" if demo else folder))
    if workload != "sinusoid" and not resume and "FASTMAML_DATA" in os.environ:
        options.setdefault("data", os.environ["FASTMAML_DATA"])
    # Kept in the checkpoint, which may be read from another folder.
    options |= {key: os.path.abspath(options[key]) for key in ("data", "split") if key in options}
    given = (DEMO | options) if demo and not resume else options
    settings = preset(workload) if resume else preset(workload, **given)
    try:
        results = run(
            settings,
            out,
            resume=resume,
            overwrite=demo,
            given=given,
            command=shlex.join(["fastmaml", *words]),
        )
    except StoppedError as stop:
        again = shlex.join(["fastmaml", "train", workload, "--resume", "--out", str(out)])
        print(f"fastmaml: stopped after iteration {stop.iteration}.", file=sys.stderr)
        print(f"Continue with: {again}", file=sys.stderr)
        return STOPPED
    print(_report(results))
    return 0


def _report(results: dict[str, Any]) -> str:
    lines = [_table(results["figures"], results["paper"])]
    if "baseline" in results:
        lines.append(f"pretrained on all tasks, inner rate {results['baseline']['inner_lr']:g}:")
        lines.append(_table(results["baseline"]["figures"], results["baseline"]["paper"]))
    seconds = results["wall_time_s"]["training"]
    if seconds:
        rate = results["tasks_per_s"] or 0.0
        share = 100 * results["wall_time_s"]["sampling"] / seconds
        lines.append(
            f"trained {seconds:.1f} s, {rate:,.0f} tasks/s, backend {results['backend']}, "
            f"{share:.2g}% of the time drawing tasks"
        )
    lines += [f"{what}: {place}" for what, place in results["files"].items()]
    if "picture_error" in results:
        lines.append(f"picture: could not be drawn ({results['picture_error']})")
    return "\n".join(lines)


def _table(figures: dict[str, Any], paper: dict[str, float]) -> str:
    """Loss (and accuracy) with 95% intervals by number of inner steps, the paper's beside."""
    classifies = figures["accuracy"] is not None
    scale, unit = (100.0, "accuracy %") if classifies else (1.0, "loss")
    means = figures["accuracy" if classifies else "loss"]
    widths = figures["accuracy_interval" if classifies else "loss_interval"]
    lines = [f"steps  test {unit}, {figures['tasks']} tasks"]
    for step, (mean, width) in enumerate(zip(means, widths, strict=True)):
        if mean is None:
            lines.append(f"{step:5d}  not finite")
            continue
        line = f"{step:5d}  {scale * mean:8.3f} +- {scale * width:.3f}"
        if str(step) in paper:
            line += f"   (paper {scale * paper[str(step)]:g})"
        lines.append(line)
    return "\n".join(lines)


def _evaluate(options: dict[str, Any]) -> int:
    from fastmaml.train import trained
    from fastmaml.train.experiment import write_json

    path = options.pop("checkpoint")
    target = options.pop("json", None)
    options.pop("words")
    model, settings, sources = trained.load(path, options)
    results = trained.test(model, settings, sources)
    print(_table(results["figures"], results["paper"]))
    if target is not None:
        write_json(target, results)
        print(f"results: {target}")
    return 0


def _verify(options: dict[str, Any]) -> int:
    import fastmaml
    from fastmaml.train import trained

    given = {} if options["data"] is None else {"data": options["data"]}
    path = options["checkpoint"]
    model, settings, sources = trained.load(path, given) if path else trained.fresh()
    if settings.method != "maml":
        raise SettingError(
            f"verify: {path} must be of method maml, it is of {settings.method}, which has no "
            "inner loop; give another checkpoint."
        )
    support, query = trained.batch(settings, sources)
    report = fastmaml.verify(
        model,
        support,
        query,
        loss=settings.loss,
        inner_lr=settings.inner_lr,
        inner_steps=settings.inner_steps,
        first_order=settings.first_order,
    )
    print(report)
    return 0


def _bench(options: dict[str, Any]) -> int:
    root = Path(__file__).resolve().parent.parent
    if not (root / "benchmarks" / "__main__.py").is_file():
        print(
            "fastmaml: bench needs the source tree, which is not beside this installation; "
            "clone it and run `make bench` there.",
            file=sys.stderr,
        )
        return 2
    call = [sys.executable, "-m", "benchmarks", *options["words"][1:]]
    return subprocess.run(call, cwd=root, check=False).returncode


def _info(options: dict[str, Any]) -> int:
    from fastmaml.train.machine import machine, versions

    for name, value in (versions() | machine()).items():
        print(f"{name.replace('_', ' '):16s} {value}")
    return 0
