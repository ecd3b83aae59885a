"""The benchmark harness: wrong rivals are refused, the work is counted right, the table repeats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import check, memory, networks, records, runner, table, timing
from benchmarks.check import Checker, Errors, RefusedError
from benchmarks.contestants import CONTESTANTS, OURS, select
from benchmarks.loops import table as loop_table
from benchmarks.memory import Memory
from benchmarks.records import LoopRecord, Record
from benchmarks.rivals.base import Outcome, Rival, UnavailableError
from benchmarks.rivals.jax_forms import DIRECT_FORMS, IM2COL_FORMS
from benchmarks.rivals.jax_networks import Direct, Im2col, rows_to_jax, to_jax, to_torch
from benchmarks.rivals.pytorch import PytorchLoop, TorchFunc
from benchmarks.timing import Spread
from benchmarks.workloads import WORKLOADS, ImageWorkload, MlpWorkload, Problem, make_problem
from fastmaml import models

TINY = MlpWorkload(
    name="sinusoid-1",
    title="tiny",
    widths=(6, 5, 4, 3),
    loss="cross_entropy",
    tasks=2,
    support_rows=3,
    query_rows=6,
    inner_steps=2,
    inner_lr=0.1,
    batch_norm=True,
)
CONV = ImageWorkload(
    name="omniglot-conv",
    title="tiny",
    architecture=networks.omniglot_conv(3, channels=4, image=13),
    loss="cross_entropy",
    tasks=2,
    support_rows=3,
    query_rows=6,
    inner_steps=2,
    inner_lr=0.1,
)
# Odd sizes, so that strides and pools drop a row; every kind of layer occurs.
CONV_NETWORKS = {
    "strided": CONV.architecture,
    "pooled": networks.conv4(3, channels=4, image=21),
    "residual": networks.resnet12(3, channels=(2, 3, 2, 4), image=17),
}
QUICK = runner.Options(rounds=2, workload_seconds=60.0, memory=False)


class Scaled(PytorchLoop):
    name = "scaled"

    def read(self, result: object) -> Outcome:
        outcome = super().read(result)  # type: ignore[arg-type]
        return Outcome(outcome.loss, outcome.gradient * (1 + 1e-8))


class FirstOrder(TorchFunc):
    """Right loss and a gradient that is nearly right."""

    name = "first-order"

    def read(self, result: object) -> Outcome:
        outcome = super().read(result)
        problem = make_problem(replace(TINY, inner_steps=0), "float64")
        plain = PytorchLoop()
        plain.prepare(problem)
        return Outcome(outcome.loss, plain.read(plain.step()).gradient)


class Silent(PytorchLoop):
    name = "nan"

    def read(self, result: object) -> Outcome:
        outcome = super().read(result)  # type: ignore[arg-type]
        return Outcome(outcome.loss, outcome.gradient * np.nan)


class Short(PytorchLoop):
    name = "short"

    def read(self, result: object) -> Outcome:
        outcome = super().read(result)  # type: ignore[arg-type]
        return Outcome(outcome.loss, outcome.gradient[1:])


class Absent(PytorchLoop):
    name = "absent"

    def prepare(self, problem: object) -> None:
        raise UnavailableError("absent is not installed")


def record(contestant: str, workload: str = "omniglot-mlp", **changes: object) -> Record:
    seconds = Spread(0.014, 0.013, 0.015, 0.0125)
    base = Record(
        workload=workload,
        contestant=contestant,
        family=CONTESTANTS[contestant].family,
        verdict="timed",
        gflop=0.56,
        threads=2,
        rounds=9,
        seconds=seconds,
        ratio=None if contestant == OURS else Spread(5.04, 4.0, 6.0, 3.0),
        share_of_peak=0.3,
        peak_gflops=200.0,
        peak_method="fma",
        errors=Errors(1e-15, 1e-7),
        memory=Memory(3 * 2**20, 0, 1000),
        machine={"cpu": "a processor", "cores": 2, "torch": "2.6"},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "gflop"),
    [
        ("sinusoid-1", 0.010),
        ("sinusoid-5", 0.040),
        ("omniglot-mlp", 0.56),
        ("wide-mlp", 95.0),
        ("omniglot-conv", 9.985),
        ("omniglot-conv-20", 79.77),
        ("mini-conv", 88.68),
        ("resnet12", 945.4),
    ],
)
def test_necessary_work_of_the_workloads(name: str, gflop: float) -> None:
    assert WORKLOADS[name].necessary_flops / 1e9 == pytest.approx(gflop, rel=0.01)


def test_necessary_work_by_hand() -> None:
    row = replace(TINY, widths=(7, 5, 3), tasks=4, support_rows=2, query_rows=3, inner_steps=2)
    first, last = 2 * 7 * 5, 2 * 5 * 3
    support = 2 * ((2 + 2) * first + (3 + 6) * last)
    query = 3 * (2 * first + 3 * last)
    assert row.necessary_flops == 4 * (2 * support + query)


def test_necessary_work_of_convolutions_by_hand() -> None:
    block = networks.Residual((networks.Conv(3),), (networks.Conv(3, size=1),))
    layers = (block, networks.Conv(4, stride=2), networks.Mean(), networks.Linear(2))
    row = replace(CONV, architecture=networks.Network((2, 5, 7), layers))
    # Both branches read the input; a stride of 2 leaves 3 x 4 of 5 x 7 pixels.
    first = 2 * 5 * 7 * 3 * 2 * (9 + 1)
    rest = 2 * 3 * 4 * 4 * 3 * 9 + 2 * 4 * 2
    support, query = 4 * first + 9 * rest, 2 * first + 3 * rest
    assert row.necessary_flops == 2 * (2 * 3 * support + 6 * query)


@pytest.mark.parametrize("name", ["omniglot_conv", "conv4", "resnet12"])
def test_the_networks_are_those_of_the_models(name: str) -> None:
    theirs, ours = getattr(models, name)(5), getattr(networks, name)(5).module()
    shapes = [[p.shape for p in model.parameters()] for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, *getattr(networks, name)(5).row)
    torch.testing.assert_close(ours(x), theirs(x))


def test_image_rows_are_prototypes_with_noise() -> None:
    support, query = make_problem(CONV, "float64").tensors()
    assert support[0].shape == (2, 3, 1, 13, 13)
    for task in range(CONV.tasks):
        near = torch.cdist(query[0][task].flatten(1), support[0][task].flatten(1)).argmin(1)
        assert torch.equal(support[1][task][near], query[1][task])


def test_every_contestant_gets_the_same_problem() -> None:
    one, two = make_problem(TINY, "float64"), make_problem(TINY, "float32")
    for name, values in one.parameters.items():
        assert np.array_equal(values, two.parameters[name].astype(np.float64))
    assert np.array_equal(one.support[0], two.support[0].astype(np.float64))
    assert one.support[1].dtype == np.int64
    with pytest.raises(ValueError, match='must be "float32" or "float64", got "int8"'):
        make_problem(TINY, "int8")


@pytest.mark.parametrize("wrong", [Scaled, FirstOrder, Silent, Short])
def test_wrong_rivals_are_refused(wrong: type[Rival]) -> None:
    with pytest.raises(RefusedError, match=f"{wrong.name} in float64"):
        Checker(TINY).admit(wrong)


def test_only_rivals_are_allowed_kinks(monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(rival: type[Rival], limits: float) -> None:
        prepare, read = rival.prepare, rival.read
        off = 0.0

        def prepared(self: Rival, problem: Problem) -> None:
            nonlocal off
            off = limits * TINY.float32_limit if problem.dtype == "float32" else 0.0
            prepare(self, problem)

        def shifted(self: Rival, result: object) -> Outcome:
            outcome = read(self, result)
            return Outcome(outcome.loss, outcome.gradient * (1 + off))

        monkeypatch.setattr(rival, "prepare", prepared)
        monkeypatch.setattr(rival, "read", shifted)

    checker = Checker(TINY)
    shift(TorchFunc, 3.0)
    _, errors = checker.admit(TorchFunc)
    assert errors.float32 == pytest.approx(3 * TINY.float32_limit, rel=1e-2)
    shift(PytorchLoop, 30.0)
    with pytest.raises(RefusedError, match="pytorch-loop in float32"):
        checker.admit(PytorchLoop)
    shift(CONTESTANTS[OURS], 3.0)
    with pytest.raises(RefusedError, match="fastmaml in float32"):
        checker.admit(CONTESTANTS[OURS])


def test_refused_and_absent_rivals_are_not_timed() -> None:
    found = {r.contestant: r for r in runner.run(TINY, [PytorchLoop, Scaled, Absent], QUICK)}
    assert found["pytorch-loop"].verdict == "timed"
    assert found["scaled"].verdict.startswith("refused: scaled in float64: relative error")
    assert found["absent"].verdict == "missing: absent is not installed"
    assert all(found[name].seconds is None for name in ("scaled", "absent"))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_torch_contestants_and_fastmaml_agree(loss: str) -> None:
    regression = loss == "mse"
    widths = (1, 4, 4, 1) if regression else (6, 4, 4, 2)
    checker = Checker(replace(TINY, loss=loss, widths=widths, batch_norm=not regression))
    for contestant in (CONTESTANTS[OURS], PytorchLoop, TorchFunc):
        _, errors = checker.admit(contestant)
        assert errors.float64 <= 1e-9


@pytest.mark.parametrize("network", CONV_NETWORKS)
def test_torch_contestants_and_fastmaml_agree_on_images(network: str) -> None:
    checker = Checker(replace(CONV, architecture=CONV_NETWORKS[network]))
    for contestant in (CONTESTANTS[OURS], PytorchLoop, TorchFunc):
        _, errors = checker.admit(contestant)
        assert errors.float64 <= 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", [f.name for f in (*DIRECT_FORMS, *IM2COL_FORMS)])
@pytest.mark.parametrize("network", CONV_NETWORKS)
def test_jax_forms_agree_on_images(network: str, name: str) -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    row = replace(CONV, architecture=CONV_NETWORKS[network])
    problem = make_problem(row, "float64")
    truth = check.reference(problem)
    rival = CONTESTANTS[name]()
    rival.prepare(problem)
    found = rival.read(rival.step())
    assert found.loss == pytest.approx(truth.loss, rel=1e-9)
    error = np.linalg.norm(found.gradient - truth.gradient)
    assert error <= 1e-9 * np.linalg.norm(truth.gradient)


@pytest.mark.parametrize("operations", [Direct, Im2col])
def test_jax_forward_pass_of_images(operations: type[Direct]) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    for network in CONV_NETWORKS.values():
        model = network.module()
        x = torch.randn(3, *network.row)
        parameters = {n: to_jax(p.detach().numpy()) for n, p in model.named_parameters()}
        rows = jax.numpy.asarray(rows_to_jax(x[None].numpy())[0])
        found = networks.forward(network.layers, operations(), parameters, rows)
        np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-4)


def test_jax_layouts_go_back_to_those_of_torch() -> None:
    for shape in ((4,), (3, 5), (2, 3, 4, 5)):
        values = np.random.default_rng(0).random(shape)
        assert np.array_equal(to_torch(to_jax(values)), values)


def test_patches_need_a_convolution() -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    with pytest.raises(UnavailableError, match="no convolution"):
        CONTESTANTS["jax-map-im2col"]().prepare(make_problem(TINY, "float64"))


def test_slow_forms_are_not_run_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SLOWEST_STEP_SECONDS", 0.0)
    found = runner.run(replace(TINY, seconds=0.0), [PytorchLoop], QUICK)
    assert found[0].verdict.startswith("screened out: a step would take about")
    assert found[0].seconds is None


@pytest.mark.parametrize(
    "name",
    [
        "jax-map",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("jax-vmap-scan", "jax-loop-scan")),
    ],
)
def test_jax_forms_agree(name: str) -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    Checker(replace(TINY, widths=(3, 4, 2))).admit(CONTESTANTS[name])


def test_a_run_writes_records_and_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results.jsonl"
    arguments = ["--workloads", "one-parameter", "--contestants", OURS, "pytorch-loop"]
    arguments += ["--rounds", "2", "--no-memory", "--output", str(output)]
    assert command.main(arguments) == 0
    found = {r.contestant: r for r in records.read(output)}
    assert list(found) == [OURS, "pytorch-loop"]
    ratio = found["pytorch-loop"].ratio
    assert ratio is not None
    assert ratio.lower <= ratio.median <= ratio.upper
    machine = json.loads(output.read_text().splitlines()[0])["machine"]
    assert {"cpu", "cores", "torch", "python"} <= set(machine)
    assert capsys.readouterr().out.startswith("| workload (GFLOP) | fastmaml |")


def test_records_survive_the_file(tmp_path: Path) -> None:
    rows = [record(OURS), record("pytorch-loop", memory=None, verdict="refused: x", seconds=None)]
    path = tmp_path / "new" / "rows.jsonl"
    records.write(path, rows)
    assert records.read(path) == rows


def test_table_is_deterministic_and_shows_the_fastest_form() -> None:
    slow = Spread(0.1, 0.1, 0.1, 0.1)
    rows = [record(name) for name in (OURS, "jax-map", "pytorch-loop")]
    rows.append(record("jax-vmap", seconds=slow))
    text = table.render(rows)
    assert text == table.render(rows)
    row = next(line for line in text.splitlines() if line.startswith("| Omniglot"))
    assert "14 ms | 30% | **5.0 x** (4.0 to 6.0), 14 ms, `map` |" in row
    assert "3 MiB / 3 MiB / 3 MiB" in row
    assert "jax-vmap" not in text


def test_table_names_the_refused_and_rejects_a_mixture() -> None:
    rows = [record(OURS), record("torch-func", verdict="refused: off", rounds=0, seconds=None)]
    assert "Refused for a wrong meta-gradient: torch-func on omniglot-mlp." in table.render(rows)
    with pytest.raises(ValueError, match="one machine"):
        table.render([*rows, record("pytorch-loop", machine={"cpu": "another"})])
    with pytest.raises(ValueError, match="at least one record"):
        table.render([])


def test_tables_go_between_the_markers(tmp_path: Path) -> None:
    names = {name: tmp_path / name for name in ("results", "loops", "readme", "page")}
    results, loops, readme, page = names.values()
    records.write(results, [record(OURS), record("pytorch-loop")])
    records.write(loops, [LoopRecord("sinusoid", OURS, "fastmaml", "timed")])
    markers = [f"{t.BEGIN}\nold\n{t.END}" for t in (table, loop_table)]
    page.write_text("\n".join(["before", *markers, "after\n"]))
    readme.write_text(f"{table.SUMMARY_BEGIN}\n{table.SUMMARY_END}\n")
    arguments = ["table", *(f"--{name}={path}" for name, path in names.items())]
    assert command.main([*arguments, "--check"]) == 1
    assert [command.main(arguments), command.main([*arguments, "--check"])] == [0, 0]
    text = page.read_text()
    assert f"before\n{table.BEGIN}\n| workload" in text
    assert f"{table.END}\n{loop_table.BEGIN}\n| loop |" in text
    assert text.endswith(f"{loop_table.END}\nafter\n")
    assert "| 14 ms | **5.0 x** |\n\n" in readme.read_text()
    with pytest.raises(ValueError, match="must contain"):
        table.replace_between_markers("no markers", "")


def test_rounds_visit_everyone_in_turn() -> None:
    visits: list[str] = []
    steps = {"a": lambda: visits.append("a"), "b": lambda: visits.append("b")}
    times = timing.interleave(steps, {"a": 1.0, "b": 1.0}, rounds=3)
    assert visits == ["a", "b"] * 3
    assert [len(t) for t in times.values()] == [3, 3]


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    found = memory.measure("pytorch-loop", "one-parameter", threads=1, calls=3, seconds=10.0)
    if found is None:
        pytest.skip("the system has no /proc/self/clear_refs")
    assert found.calls == 3
    assert 0 <= found.growth < 2**30


def test_selection() -> None:
    assert select(None, all_forms=False)[0].name == OURS
    assert "jax-loop" in [c.name for c in select(None, all_forms=True)]
    with pytest.raises(ValueError, match="got nobody"):
        select(["nobody"], all_forms=False)


def test_list_names_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    assert "wide-mlp" in capsys.readouterr().out
