"""Training runs: results, atomic files, and runs that go on bitwise after they were stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import Generator

from fastmaml import models
from fastmaml.data import Episode, SinusoidTasks
from fastmaml.errors import SettingError
from fastmaml.train import (
    StoppedError,
    TrainSettings,
    checkpoint,
    loop,
    preset,
    run,
    trained,
    workloads,
)
from fastmaml.train.loop import Run

SMALL = {"tasks": 4, "eval_tasks": 6, "eval_steps": 2, "eval_query": 5, "window": 4}


def small(**changes: Any) -> TrainSettings:
    return preset("sinusoid", **(SMALL | {"iterations": 22, "baseline": False} | changes))


def same(one: Any, two: Any) -> bool:
    """Bitwise equality of nested checkpoint values, wall times and places aside."""
    if isinstance(one, dict):
        keys = one.keys() - {"seconds", "sampling_seconds", "iterations", "checkpoint_every"}
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    return bool(one == two)


def test_paper_settings() -> None:
    sinusoid = preset("sinusoid")
    assert (sinusoid.tasks, sinusoid.shots, sinusoid.query) == (25, 10, 10)
    assert (sinusoid.inner_lr, sinusoid.meta_lr, sinusoid.inner_steps) == (0.01, 1e-3, 1)
    assert (sinusoid.iterations, sinusoid.eval_shots, sinusoid.eval_tasks) == (70_000, 5, 600)
    five, twenty = preset("omniglot", shots=5), preset("omniglot", ways=20)
    assert (five.tasks, five.query, five.inner_steps, five.inner_lr) == (32, 5, 1, 0.4)
    assert (twenty.tasks, twenty.eval_query, twenty.inner_steps) == (16, 1, 5)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"inner_steps": -1}, "inner_steps must be at least 0, got -1"),
        ({"inner_lr": 0.0}, "inner_lr must be positive and finite, got 0.0"),
        ({"meta_lr": float("nan")}, "meta_lr must be positive and finite, got nan"),
        ({"colour": 3}, r"missing or unknown are \['colour'\]"),
    ],
)
def test_settings_out_of_range(given: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        preset("sinusoid", **given)
    with pytest.raises(SettingError, match="must be one of sinusoid, omniglot, cifar-fs, got 'x'"):
        preset("x")


def test_networks_have_the_papers_initialisation() -> None:
    for model in (models.sinusoid_mlp("paper"), models.omniglot_mlp(7)):
        for name, value in model.named_parameters():
            if value.ndim == 2:
                assert 0 < value.abs().max() <= 0.02, name
            elif "bias" in name:
                assert not value.any(), name
    assert 0.008 < models.omniglot_mlp(5)[0].weight.std() < 0.0093
    assert models.omniglot_mlp(7)(torch.zeros(3, 784)).shape == (3, 7)
    assert not list(models.omniglot_mlp(5).buffers()), "no running statistics"


def test_seed_decides_the_model_and_leaves_torchs_generator() -> None:
    before = torch.get_rng_state()
    one, two, other = (workloads.build_model(small(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert same(one.state_dict(), two.state_dict())
    assert not same(one.state_dict(), other.state_dict())


def test_a_complete_sinusoid_run(tmp_path: Path) -> None:
    results = run(small(baseline=True), tmp_path, command="the words")
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == json.loads(json.dumps(results))
    assert stored["command"] == "the words"
    assert stored["figures"]["tasks"] == 6
    assert len(stored["figures"]["loss"]) == 3
    assert stored["paper"] == {"1": 0.67, "5": 0.38, "10": 0.35}
    assert [point["iteration"] for point in stored["curve"]] == [4, 8, 12, 16, 20, 22]
    assert stored["baseline"]["inner_lr"] > 0
    assert len(stored["baseline"]["curve"]) == 6
    assert stored["settings"]["tasks"] == 4
    assert stored["versions"]["torch"] == torch.__version__
    assert "5 random support" in stored["protocol"]["test_points"]
    assert 0 < stored["wall_time_s"]["sampling"] < stored["wall_time_s"]["training"]
    for place in stored["files"].values():
        assert Path(place).is_file()
    assert Path(stored["files"]["picture"]).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "baseline.pt",
        "checkpoint.pt",
        "results.json",
        "sinusoid.png",
    ]
    with pytest.raises(SettingError, match="must not hold a run already"):
        run(small(), tmp_path)


@pytest.mark.parametrize("baseline", [False, True])
def test_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, baseline: bool) -> None:
    whole = run(small(baseline=baseline, window=1), tmp_path / "whole")
    run(small(baseline=baseline, window=1, iterations=13), tmp_path / "parts")
    parts = run(small(), tmp_path / "parts", resume=True, given={"iterations": 22})
    for name in ("checkpoint.pt", "baseline.pt")[: 1 + baseline]:
        one, two = (checkpoint.load(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert same(one, two), name
        assert one["best"]["iteration"] in (10, 20)
    assert parts["figures"] == whole["figures"]
    assert parts["curve"] == whole["curve"]


def test_the_best_validated_iterate_is_tested(tmp_path: Path) -> None:
    results = run(small(window=1), tmp_path)
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert results["tested_iteration"] == state["best"]["iteration"]
    path, text = tmp_path / "checkpoint.pt", "the one of twenty with the lowest validation error"
    assert text in results["protocol"]["iterate"]
    best, _, _ = trained.load(path, {})
    last, settings, sources = trained.load(path, {"select": "last"})
    assert same(best.state_dict(), state["best"]["model"])
    assert same(last.state_dict(), state["model"])
    score, _ = workloads.validation(best, settings, sources.validation, shown=1)
    assert score == state["best"]["score"]
    figures = [point for point in state["curve"] if "validation_loss" in point]
    assert [point["iteration"] for point in figures] == [10, 20]


def test_only_a_lower_finite_score_is_kept() -> None:
    settings = small()
    current = Run(workloads.build_model(settings), settings, stream=0)
    for iteration, score in enumerate([float("nan"), 2.0, float("inf"), 1.0, 1.5]):
        current.iteration = iteration
        current.keep_best(score)
        torch.nn.init.constant_(next(current.model.parameters()), iteration)
    assert current.best is not None
    assert (current.best["score"], current.best["iteration"]) == (1.0, 3)
    assert (current.best["model"]["0.weight"] == 2).all(), "a copy, not the living tensors"


def test_draws_and_adam_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    settings = small()
    current = Run(workloads.build_model(settings), settings, stream=0)
    source = workloads.build_sources(settings).train
    for owner, name in ((source, "sample"), (current.optimizer, "step")):
        call = getattr(owner, name)

        def watched(*args: Any, call: Any = call) -> Any:
            seen.append(torch.get_num_threads())
            return call(*args)

        monkeypatch.setattr(owner, name, watched)
    try:
        torch.set_num_threads(2)
        current.step(source, 1)
        assert (seen, torch.get_num_threads()) == ([1, 1], 2)
        with pytest.raises(ZeroDivisionError):
            loop.on_one_thread(lambda: 1 // 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_resume_keeps_what_decided_the_steps_already_taken(tmp_path: Path) -> None:
    run(small(), tmp_path)
    with pytest.raises(SettingError, match="tasks must stay 4 as in the checkpoint, got 5"):
        run(small(), tmp_path, resume=True, given={"tasks": 5})
    with pytest.raises(SettingError, match="must be omniglot, it is sinusoid"):
        run(preset("omniglot"), tmp_path, resume=True)
    with pytest.raises(FileNotFoundError, match="none is there"):
        run(small(), tmp_path / "nowhere", resume=True)


def test_interrupt_waits_for_the_iteration_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, calls = SinusoidTasks.sample, []

    def interrupting(self: SinusoidTasks, tasks: int, generator: Generator) -> Episode:
        calls.append(tasks)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return sample(self, tasks, generator)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(SinusoidTasks, "sample", interrupting)
        with pytest.raises(StoppedError, match="after iteration 7"):
            run(small(), tmp_path / "parts")
    assert signal.getsignal(signal.SIGINT) is before
    run(small(), tmp_path / "parts", resume=True)
    run(small(), tmp_path / "whole")
    one, two = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert same(one, two)


def test_killed_run_goes_on_bitwise(tmp_path: Path) -> None:
    path = tmp_path / "parts" / "checkpoint.pt"
    words = ["train", "sinusoid", "--no-baseline", "--tasks", "2", "--checkpoint-every", "3"]
    words += ["--eval-tasks", "1", "--iterations", "1000000", "--out", str(path.parent)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "fastmaml", *words], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            if path.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(0.1)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    state = checkpoint.load(path)
    iterations = state["iteration"] + 5
    settings = TrainSettings.from_dict(state["settings"])
    run(settings, path.parent, resume=True, given={"iterations": iterations})
    fresh = preset(
        "sinusoid",
        tasks=2,
        eval_tasks=1,
        iterations=iterations,
        baseline=False,
        window=settings.window,
    )
    run(fresh, tmp_path / "whole")
    one, two = checkpoint.load(tmp_path / "whole" / "checkpoint.pt"), checkpoint.load(path)
    assert one["iteration"] == iterations
    assert same(one, two)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"must stay finite, got (nan|inf) at iteration 4"):
        run(small(inner_lr=1e30), tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    checkpoint.write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: IO[bytes]) -> None:
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(SettingError, match="cannot be read as one"):
        checkpoint.load(path)
    torch.save({"format": 99}, path)
    with pytest.raises(SettingError, match="must have format 1, got 99"):
        checkpoint.load(path)


@pytest.mark.slow
def test_meta_training_learns_sinusoids(tmp_path: Path) -> None:
    settings = preset("sinusoid", iterations=15_000, baseline=False, eval_tasks=200)
    loss = run(settings, tmp_path)["figures"]["loss"]
    assert loss[0] > 2.5
    assert loss[1] < 0.9
