"""The command line: every command runs, every mistake is one sentence and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastmaml
from fastmaml import cli

QUICK = ["--iterations", "3", "--tasks", "2", "--eval-tasks", "4", "--eval-steps", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    assert cli.main(["train", "sinusoid", *QUICK, "--no-baseline", "--out", str(out)]) == 0
    return out


def outcome(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of a command."""
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "required: COMMAND"),
        ("bogus", "invalid choice: 'bogus'"),
        ("train", "required: WORKLOAD"),
        ("train sinusoid --iterations 0", "--iterations: must be a whole number of at least 1"),
        ("train sinusoid --tasks 2.5", "must be a whole number of at least 1, got '2.5'"),
        ("train sinusoid --inner-lr nan", "must be a positive number, got 'nan'"),
        ("train sinusoid --inner-lr -1", "must be a positive number, got '-1'"),
        ("train sinusoid --backend gpu", "invalid choice: 'gpu'"),
        ("train sinusoid --ways 5", "unrecognized arguments: --ways 5"),
        ("train sinusoid --seed", "expected one argument"),
        ("train sinusoid --resume --out {tmp}/none", "must be a file, none is there"),
        ("train omniglot --out {tmp}/o", "--data must name an .npz or a folder"),
        ("train omniglot --data {tmp}/none --out {tmp}/o", "none of them is there"),
        ("train omniglot --data {tmp}/a.npz --out {tmp}/o", "needs 1623 classes, got 3"),
        ("train omniglot --model resnet", "invalid choice: 'resnet'"),
        ("train omniglot --inner-lr papers", "must be a positive number, got 'papers'"),
        ("train omniglot --model mlp --channels 8", "channels belong to model conv, got 8"),
        ("train cifar-fs --out {tmp}/o", "--data must name an .npz or a folder"),
        ("train cifar-fs --data {tmp} --out {tmp}/o", "must hold cifar_fs_train.npz"),
        ("train cifar-fs --model mlp", "unrecognized arguments: --model mlp"),
        ("train cifar-fs --clip 0", "--clip: must be a positive number, got '0'"),
        ("train omniglot --method svm", "invalid choice: 'svm'"),
        ("train omniglot --method protonet --inner-lr 1", "must be without inner_lr"),
        ("train cifar-fs --method nearest --iterations 9", "must be without iterations"),
        ("train sinusoid --method protonet", "unrecognized arguments: --method protonet"),
        ("evaluate {tmp}/none.pt", "must be a file, none is there"),
        ("evaluate {tmp}/a.npz", "cannot be read as one"),
        ("verify {tmp}/none.pt", "must be a file, none is there"),
    ],
)
def test_mistakes_are_one_sentence(
    words: str,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FASTMAML_DATA", raising=False)
    images = np.zeros((3, 20, 28, 28), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, class_names=list("abc"))
    code, error = outcome([word.format(tmp=tmp_path) for word in words.split()], capsys)
    assert code == 2
    assert text in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_training_over_a_run_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = outcome(["train", "sinusoid", "--out", str(trained)], capsys)
    assert (code, error.count("\n")) == (2, 1)
    assert "continue it with --resume" in error


def test_resume_from_the_command_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "sinusoid", "--resume", "--out", str(trained)]
    assert cli.main([*words, "--iterations", "5"]) == 0
    assert json.loads((trained / "results.json").read_text())["curve"][-1]["iteration"] == 5
    code, error = outcome([*words, "--seed", "3"], capsys)
    assert code == 2
    assert "seed must stay 0" in error


def test_evaluate_repeats_the_figures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = trained / "again" / "figures.json"
    checkpoint = str(trained / "checkpoint.pt")
    assert cli.main(["evaluate", checkpoint, "--json", str(target)]) == 0
    first = json.loads((trained / "results.json").read_text())["figures"]
    assert json.loads(target.read_text())["figures"] == first
    assert cli.main(["evaluate", checkpoint, "--eval-steps", "3", "--seed", "9"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 1 + 1 + 4


def test_demo_prints_where_the_picture_lies_and_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "DEMO", {"iterations": 3, "eval_tasks": 4})
    for _ in range(2):
        assert cli.main(["train", "sinusoid", "--demo", "--out", str(tmp_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"picture: {tmp_path / 'sinusoid.png'}"
    assert (tmp_path / "sinusoid.png").is_file()


def test_info_names_versions_and_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    assert torch.__version__ in shown
    assert fastmaml.__version__ in shown
    for name in ("instruction set", "threads", "cuda"):
        assert name in shown


def test_verify_on_a_fresh_network_and_on_a_checkpoint(trained: Path) -> None:
    assert cli.main(["verify"]) == 0
    assert cli.main(["verify", str(trained / "checkpoint.pt")]) == 0


def test_bench_without_the_source_tree_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "fastmaml" / "cli.py"))
    code, error = outcome(["bench"], capsys)
    assert (code, error.count("\n")) == (2, 1)
    assert "needs the source tree" in error


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastmaml", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    for command in ("train", "evaluate", "bench", "verify", "info"):
        assert command in done.stdout
