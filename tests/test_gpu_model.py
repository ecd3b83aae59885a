"""The model of GPUs that are not here: bounds by hand, labels on every table."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command
from benchmarks import gpu_model
from benchmarks.gpu_model import A100, H100, KERNEL_SECONDS, bounds
from benchmarks.workloads import WORKLOADS
from fastmaml import cli


def cost(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{"flops": 0.0, "bytes": 0.0, "kernels": 1, "obstacle": "", **changes})


def test_bounds_by_hand() -> None:
    found = bounds(cost(flops=19.5e9, bytes=1.555e6, kernels=4, obstacle="wide"), A100, tasks=1)
    assert found.arithmetic == pytest.approx(1e-3)
    assert found.tensor_arithmetic == pytest.approx(1e-3 * 19.5 / 156)
    assert found.memory == pytest.approx(1e-6)
    assert found.starts == pytest.approx(4 * KERNEL_SECONDS)
    assert (found.seconds, found.holds) == (found.arithmetic, "arithmetic")
    assert bounds(cost(bytes=3.35e9), H100, 1).holds == "memory"
    assert bounds(cost(kernels=9), H100, 1).holds == "starts"


def test_the_resident_kernel_keeps_a_multiprocessor_a_task() -> None:
    few, many = (bounds(cost(flops=1e9), A100, tasks).arithmetic for tasks in (27, 1000))
    assert few == pytest.approx(4 * many)


@pytest.mark.parametrize("name", ["sinusoid-1", "sinusoid-5", "omniglot-mlp", "wide-mlp"])
def test_arithmetic_is_near_what_the_step_needs(name: str) -> None:
    """The dense count; factored weights need less of it."""
    workload = WORKLOADS[name]
    found = gpu_model.compile_step(workload).device_cost(workload.tasks, 0)
    assert 0.6 * workload.necessary_flops < found.flops < 1.1 * workload.necessary_flops


def test_the_tables_render_and_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["sinusoid-1", "omniglot-mlp"]
    assert command.main(["--model-gpu", "--workloads", *names, "--kinds"]) == 0
    text = capsys.readouterr().out
    assert text.count(gpu_model.LABEL) == len(gpu_model.GPUS) + 1
    assert "NVIDIA A100 Tensor Core GPU data sheet" in text
    rows = [line for line in text.splitlines() if line.startswith("| sinusoid-1 |")]
    assert len(rows) == len(gpu_model.GPUS)
    assert all(row.split(" | ")[1:4] == ["resident", "1", "1"] for row in rows)
    assert all(line.count("|") in (5, 13) for line in text.splitlines() if line.startswith("|"))
    assert "| contract |" in text


def test_bench_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(call: list[str], **_: object) -> SimpleNamespace:
        calls.append(call)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert cli.main(["bench", "--model-gpu", "--kinds"]) == 0
    assert calls == [[sys.executable, "-m", "benchmarks", "--model-gpu", "--kinds"]]
