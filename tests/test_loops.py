"""The benchmarked training loops: wrong steps are refused, draws keep the rule, processes end."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import networks, records
from benchmarks.check import Errors, RefusedError
from benchmarks.contestants import OURS
from benchmarks.loops import check, drawing, jax_loops, processes, runner, table, worker
from benchmarks.loops.base import Loop
from benchmarks.loops.contestants import (
    DEFAULTS,
    IN_SCAN,
    ONE_THREAD,
    Contestant,
    contestants,
)
from benchmarks.loops.torch_loops import TorchLoop
from benchmarks.loops.workloads import LOOPS, LoopWorkload
from benchmarks.records import LoopRecord
from benchmarks.rivals.pytorch import PytorchLoop, TorchFunc
from benchmarks.timing import Spread
from benchmarks.workloads import ImageWorkload, MlpWorkload

SINUSOID = LoopWorkload(
    name="sinusoid",
    title="tiny",
    workload=MlpWorkload(
        name="tiny",
        title="tiny",
        widths=(1, 4, 4, 1),
        loss="mse",
        tasks=2,
        support_rows=3,
        query_rows=3,
        inner_steps=1,
        inner_lr=0.01,
    ),
    forms=("jax-vmap", "jax-map"),
    scan=2,
)
IMAGES = LoopWorkload(
    name="omniglot-conv",
    title="tiny",
    workload=ImageWorkload(
        name="tiny",
        title="tiny",
        architecture=networks.omniglot_conv(2, channels=4, image=13),
        loss="cross_entropy",
        tasks=2,
        support_rows=4,
        query_rows=6,
        inner_steps=1,
        inner_lr=0.1,
    ),
    forms=("jax-map-im2col",),
    scan=2,
    classes=7,
    drawings=6,
)
FLAT = replace(
    IMAGES,
    forms=("jax-map",),
    workload=MlpWorkload(
        name="tiny",
        title="tiny",
        widths=(36, 5, 2),
        loss="cross_entropy",
        tasks=2,
        support_rows=4,
        query_rows=6,
        inner_steps=1,
        inner_lr=0.1,
        batch_norm=True,
    ),
)


class Faster(TorchLoop):
    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        super().prepare(loop, dtype)
        self._optimizer.param_groups[0]["lr"] *= 1.001


class NoZeroGrad(TorchLoop):
    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        super().prepare(loop, dtype)
        self._optimizer.zero_grad = lambda: None  # type: ignore[method-assign]


class OneDraw(TorchLoop):
    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        super().prepare(loop, dtype)
        draw, always = self._draw, self._draw()
        self._draw = lambda: (draw(), always)[1]
        self._once = draw

    def coming(self) -> object:  # type: ignore[override]
        drawn, self._draw = self._draw, self._once
        try:
            return super().coming()
        finally:
            self._draw = drawn


class Elsewhere(TorchLoop):
    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        super().prepare(loop, dtype)
        with torch.no_grad():
            self._rival.parameters[0].add_(1e-3)


class Counting(Loop):
    grain = 2

    def __init__(self) -> None:
        self.calls: list[int] = []

    def run(self, steps: int) -> None:
        self.calls.append(steps)

    prepare = coming = state = None  # type: ignore[assignment]


def record(contestant: str = OURS, **changes: object) -> LoopRecord:
    base = LoopRecord(
        workload="sinusoid",
        contestant=contestant,
        family=contestants(LOOPS["sinusoid"])[contestant].family,
        verdict="timed",
        threads=2,
        rounds=5,
        seconds=Spread(2e-4, 1e-4, 3e-4, 1e-4),
        ratio=None if contestant == OURS else Spread(5.04, 4.0, 6.0, 3.0),
        errors=Errors(1e-15, 1e-7),
        machine={"cpu": "a processor", "cores": 2, "torch": "2.6"},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("loop", [SINUSOID, FLAT, IMAGES])
@pytest.mark.parametrize("name", [OURS, DEFAULTS, "pytorch-loop", "torch-func"])
def test_loops_of_torch_take_the_steps_of_the_definition(loop: LoopWorkload, name: str) -> None:
    ready, errors = check.admit(contestants(loop)[name], loop)
    assert errors.float64 <= 1e-9
    before = ready.state()
    ready.run(2)
    assert not np.array_equal(before.parameters, ready.state().parameters)


@pytest.mark.parametrize(("loop", "name"), [(SINUSOID, "jax-vmap"), (FLAT, "jax-map" + IN_SCAN)])
def test_loops_of_jax_take_the_steps_of_the_definition(loop: LoopWorkload, name: str) -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    _, errors = check.admit(contestants(loop)[name], loop)
    assert errors.float64 <= 1e-9


@pytest.mark.slow
def test_a_loop_of_jax_over_images_takes_the_steps_of_the_definition() -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    check.admit(contestants(IMAGES)["jax-map-im2col"], IMAGES)


def test_a_scan_takes_the_same_steps_as_calls() -> None:
    pytest.importorskip("jax", reason="jax is not installed")
    calls, scan = (contestants(SINUSOID)[name].make() for name in ("jax-map", "jax-map" + IN_SCAN))
    for loop in (calls, scan):
        loop.prepare(SINUSOID, "float64")
        loop.run(4)
    assert scan.grain == 2
    np.testing.assert_allclose(calls.state().parameters, scan.state().parameters, rtol=1e-9)


@pytest.mark.parametrize("wrong", [Faster, NoZeroGrad, OneDraw, Elsewhere])
def test_wrong_loops_are_refused(wrong: type[TorchLoop]) -> None:
    contestant = Contestant("wrong", "PyTorch loop", lambda: wrong(PytorchLoop))
    with pytest.raises(RefusedError, match="wrong"):
        check.admit(contestant, SINUSOID)
    assert worker.checked(contestant, SINUSOID)["verdict"].startswith("refused: wrong")


def test_every_step_draws_new_tasks() -> None:
    for loop in (SINUSOID, IMAGES):
        made = TorchLoop(TorchFunc)
        made.prepare(loop, "float32")
        first = made.coming()
        assert np.array_equal(first[0][0], made.coming()[0][0]), "a look changes nothing"
        made.run(1)
        assert not np.array_equal(first[0][0], made.coming()[0][0])


def test_jax_draws_pictures_by_the_rule() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    workload = replace(FLAT.workload, tasks=50)
    loop = replace(FLAT, workload=workload)
    numbers = jax.numpy.arange(4 * loop.classes * loop.drawings)[:, None]
    sx, sy, qx, _ = jax_loops._images(loop, "float32")(jax.random.key(3), numbers)
    x = np.concatenate([sx, qx], axis=1)[..., 0].astype(int).reshape(50, 5, 2)
    turn, kind = np.divmod(x // loop.drawings, loop.classes)
    assert (kind == kind[:, :1]).all(), "rows go picture by picture, class n has label n"
    assert (turn == turn[:, :1]).all(), "one turn per class and task"
    assert (kind[:, 0, 0] != kind[:, 0, 1]).all()
    for pictures in np.moveaxis(x % loop.drawings, 1, 2).reshape(100, 5):
        assert len(set(pictures)) == 5
    assert set(turn.ravel()) == {0, 1, 2, 3}
    assert set(kind.ravel()) == set(range(loop.classes))
    assert np.array_equal(np.asarray(sy)[0].argmax(-1), [0, 1, 0, 1])


def test_turned_rows_are_those_of_the_task_source() -> None:
    drawn = drawing.images(FLAT)
    assert drawn.shape == (7, 6, 6, 6)
    assert set(np.unique(drawn)) == {0, 1}
    rows = {row.tobytes() for row in drawing.turned(drawn)}
    (x, _), _ = drawing.drawer(FLAT, torch.float32)()
    assert all(row.numpy().astype(np.uint8).tobytes() in rows for row in x.flatten(0, 1))


def test_a_visit_counts_its_steps() -> None:
    loop = Counting()
    steps, seconds = worker.visit(loop, 4, 0.001)
    assert set(loop.calls) == {4}
    assert 0 < steps <= 4 * len(loop.calls)
    assert seconds >= 0.001


def test_slow_forms_of_a_loop_are_not_timed() -> None:
    everybody = list(contestants(LOOPS["sinusoid"]).values())
    found = {c.name: {"seconds": 1.0} for c in everybody} | {"jax-map": {"seconds": 0.5}}
    names = runner.fastest(everybody, found)
    assert {"jax-map", "jax-vmap" + IN_SCAN, OURS, ONE_THREAD} <= set(names)
    assert "jax-vmap" not in names


def test_a_busy_process_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def popen(*words: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(start(*words, **options))  # type: ignore[call-overload]
        return started[-1]

    def broken() -> None:
        with processes.busy_process():
            assert started[0].poll() is None
            raise KeyError

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    with pytest.raises(KeyError):
        broken()
    assert started[0].poll() is not None


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="nobody on sinusoid ended before it answered"):
        processes.Worker("sinusoid", "nobody")


def test_a_run_writes_records_and_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "loops.jsonl"
    words = ["loops", "--workloads", "sinusoid-regions", "--contestants", OURS, "regions"]
    assert (
        command.main([*words, "--rounds", "2", "--seconds", "0.01", "--output", str(output)]) == 0
    )
    found = {(r.contestant, r.busy): r for r in records.read_loops(output)}
    assert set(found) == {(name, busy) for name in (OURS, "regions") for busy in (False, True)}
    assert all(r.rounds == 2 and r.seconds is not None and r.threads for r in found.values())
    assert found["regions", True].ratio is not None
    assert "a busy process beside" in capsys.readouterr().out


def test_records_survive_the_file(tmp_path: Path) -> None:
    rows = [record(), record("torch-func", verdict="refused: x", seconds=None, busy=True)]
    records.write(tmp_path / "rows.jsonl", rows)
    assert records.read_loops(tmp_path / "rows.jsonl") == rows


def test_table_shows_rates_and_ratios() -> None:
    rows = [record(), record(ONE_THREAD), record("pytorch-loop"), record("jax-map", busy=True)]
    rows.append(record("torch-func", verdict="refused: off", seconds=None, rounds=0))
    text = table.render(rows)
    assert text == table.render(rows)
    idle, busy = (line for line in text.splitlines() if line.startswith("| sinusoid"))
    assert "| idle | 5,000/s | 5,000/s | **5.0 x** (4.0 to 6.0) | - | - | - | **5.0 x**" in idle
    assert "| a busy process beside | - | - | - | - | **5.0 x** (4.0 to 6.0), 5,000/s |" in busy
    assert "Refused for a wrong step: torch-func on sinusoid." in text
    with pytest.raises(ValueError, match="one machine"):
        table.render([*rows, record(machine={"cpu": "another"})])
    with pytest.raises(ValueError, match="at least one record"):
        table.render([])


def test_the_pages_show_the_committed_results() -> None:
    assert command.main(["table", "--check"]) == 0
