"""The benchmark of a device, on one made up: the CPU with a clock and an allocator of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import device_run, devices, timing
from benchmarks.check import Errors
from benchmarks.contestants import CONTESTANTS, OURS
from benchmarks.device_kernels import OTHERS, Share, kind_of, shares
from benchmarks.rivals.pytorch import PytorchLoop
from benchmarks.timing import Spread
from benchmarks.workloads import ONE_PARAMETER, SINUSOID_1, make_problem
from fastmaml import cli

TINY = replace(SINUSOID_1, widths=(1, 4, 1), tasks=3)


class MadeUp:
    """Its clock gives every contestant a time of its own; its memory grows by the step."""

    place = "cpu"

    def __init__(self) -> None:
        self.visits: list[int] = []

    def facts(self) -> dict[str, str]:
        return {"device": "made up", "driver": "1.2", "torch": "3"}

    def visit(self, step: Callable[[], object], count: int) -> float:
        self.visits.append(count)
        timing.wall_clock(step, count)
        ours = type(step.__self__).name == OURS  # type: ignore[attr-defined]
        return 0.010 if ours else 0.050

    def peak_gflops(self) -> float:
        return 1000.0

    def peak_memory(self, step: Callable[[], object]) -> int:
        step()
        return 3 * 2**20

    def kernels(self, step: Callable[[], object]) -> list[Share]:
        step()
        return [Share("Conv", 3, 0.006), Share("BatchNorm", 2, 0.00394), Share(OTHERS, 1, 0.00006)]

    def plain_float32(self) -> AbstractContextManager[None]:
        return nullcontext()


def test_without_a_device_one_sentence_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    if not devices.absence():
        pytest.skip("this machine has a CUDA device")
    assert command.main(["--device", "cuda"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("benchmarks: --device cuda must have a CUDA device")
    assert "sees none" in error
    assert "--model-gpu" in error


def test_the_command_line_passes_the_status_on() -> None:
    if not devices.absence():
        pytest.skip("this machine has a CUDA device")
    assert cli.main(["bench", "--device", "cuda"]) == 1


def test_why_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "a build without CUDA" in devices.absence()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("fastmaml.engine.binding.info", lambda: {"cuda": "this build has no CUDA"})
    assert devices.absence() == "this build has no CUDA"
    monkeypatch.setattr("fastmaml.engine.binding.info", lambda: {"cuda": "ready"})
    assert devices.absence() == ""


class Event:
    """Two of them lie 20 ms apart."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, other: Event) -> float:
        return 20.0


def test_times_are_those_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    steps: list[int] = []
    assert devices.Cuda().visit(lambda: steps.append(1), 4) == pytest.approx(0.005)
    assert len(steps) == 4


def test_memory_is_what_steps_add(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"peak": 900, "now": 100}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: held.update(peak=100))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: held["peak"])
    assert devices.Cuda().peak_memory(lambda: held.update(peak=350)) == 250


SYMBOLS = {
    "void fastmaml::device::instruction_kernel<float, fastmaml::DeviceConvArgs>(T2, "
    "fastmaml::DeviceCall, bool)": "Conv",
    "void fastmaml::device::instruction_kernel<double, fastmaml::BatchNormArgs>(T2, "
    "fastmaml::DeviceCall, bool)": "BatchNorm",
    "void fastmaml::device::instruction_kernel<float, fastmaml::DeviceContractArgs, "
    "fastmaml::device::Tf32Tiles>(T2, fastmaml::DeviceCall, bool)": "Contract",
    "void fastmaml::device::instruction_kernel<float, fastmaml::DeviceConvArgs, "
    "fastmaml::device::SplitTiles<(fastmaml::DepthSplit)2> >(T2, fastmaml::DeviceCall, bool)":
        "Conv",
    "void fastmaml::device::resident<float>(fastmaml::ResidentCall)": "resident",
    "fastmaml::device::(anonymous namespace)::write_words(unsigned long*, fastmaml::Words)":
        "write_words",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float> >(T3)": OTHERS,
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), SYMBOLS.items(), ids=SYMBOLS.values())
def test_kernels_are_known_by_their_symbols(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_kernels_are_summed_by_kind() -> None:
    names = list(SYMBOLS)
    events = [
        {"cat": "kernel", "name": names[0], "dur": 2.0},
        {"cat": "kernel", "name": names[1], "dur": 9.0},
        {"cat": "cpu_op", "name": names[1], "dur": 50.0},
        {"name": "a mark without category or duration"},
        {"cat": "kernel", "name": names[0], "dur": 4.0},
    ]
    found = shares(events)
    assert [(share.kind, share.kernels) for share in found] == [("BatchNorm", 1), ("Conv", 2)]
    assert [share.seconds for share in found] == pytest.approx([9e-6, 6e-6])


def test_tf32_is_off_for_a_run_only() -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    with devices.Cuda().plain_float32():
        assert (products.allow_tf32, convolutions.allow_tf32) == (False, False)
    assert (products.allow_tf32, convolutions.allow_tf32) == before


def test_contestants_take_turns_on_the_device() -> None:
    device = MadeUp()
    names = [OURS, "pytorch-loop", "torch-func"]
    rows = device_run.run(TINY, [CONTESTANTS[n] for n in names], 4, 60.0, device)
    found = {row.contestant: row for row in rows}
    assert list(found) == names
    assert all(row.verdict == "timed" for row in rows)
    assert found[OURS].ratio is None
    ratio = found["pytorch-loop"].ratio
    assert ratio is not None
    assert ratio.median == pytest.approx(5.0)
    assert found[OURS].executor == "cpu"  # what ran on this device
    assert found["torch-func"].memory == 3 * 2**20
    assert all(row.errors is not None and row.errors.float64 < 1e-9 for row in rows)
    # Three rough visits and one before them, then one in each round.
    assert len(device.visits) == len(names) * (4 + 4)


def test_the_wrong_are_refused_and_not_timed() -> None:
    class Wrong(PytorchLoop):
        name = "wrong"

        def read(self, result: torch.Tensor) -> device_run.Any:
            outcome = super().read(result)
            return replace(outcome, gradient=outcome.gradient * 1.5)

    device = MadeUp()
    rows = device_run.run(TINY, [CONTESTANTS[OURS], Wrong], 3, 60.0, device)
    assert rows[1].verdict.startswith("refused: wrong in float64")
    assert (rows[1].seconds, rows[1].memory) == (None, None)
    text = device_run.render(rows, device.facts(), 1000.0)
    assert "| wrong | refused | - |" in text
    assert "- wrong on sinusoid-1: refused: wrong in float64: relative error" in text


def test_a_run_prints_a_text_for_an_issue(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--device", "cuda", "--workloads", "one-parameter", "--rounds", "3"]
    args = command._parser().parse_args([*words, "--contestants", OURS, "pytorch-loop"])
    assert command._run_on_device(args, MadeUp()) == 0
    text = capsys.readouterr().out
    assert text.startswith("- device: made up\n- driver: 1.2\n- torch: 3\n\n| workload (GFLOP) |")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2
    assert {line.count("|") for line in lines} == {9}
    assert re.search(r"\| pytorch-loop \| 50 ms \(50 to 50\) \| 5\.00 x \| - \| 3\.0 MiB \|", text)
    assert "TF32 off for everyone" in text
    assert "1000 GFLOP/s" in text
    where = "- time of fastmaml's step on one-parameter, 6 kernels: Conv 60% (3), BatchNorm 39% (2)"
    assert text.count(where) == 1
    assert "torch's" not in text


def test_shares_of_the_peak() -> None:
    spread = Spread(0.001, 0.0009, 0.0011, 0.0009)
    row = device_run.Row(SINUSOID_1, OURS, "timed", spread, errors=Errors(1e-15, 1e-7))
    gflop = SINUSOID_1.necessary_flops / 1e9
    text = device_run.render([row], {}, peak_gflops=gflop / 0.001 * 4)
    assert "| 25.0% |" in text
    rough = device_run.render([replace(row, verdict="screened out")], {}, 1.0)
    assert "about 1 ms, screened out" in rough


def test_problems_lie_where_they_are_asked_to() -> None:
    problem = make_problem(ONE_PARAMETER, "float32", "meta")
    tensors = [*problem.tensors()[0], *problem.tensors()[1], *problem.module().parameters()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_jax_without_a_device_does_not_take_part() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    if jax.default_backend() == "gpu":
        pytest.skip("this JAX has a device")
    with pytest.raises(device_run.runner.UnavailableError, match="jax has no CUDA device"):
        CONTESTANTS["jax-map"]().prepare(make_problem(TINY, "float32", "cuda:0"))
