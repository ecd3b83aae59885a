"""Each op of the engine, pass by pass, against torch.

A meta-step over `linear -> op -> linear` runs every pass of the op: without an inner step its
forward and backward, with one step of second order its forward_jvp and backward_jvp as well. The
oracle is `fastmaml.reference`, double backward through torch's own functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from op_case import INPUTS, OUTPUTS, Function, OpCase
from op_cases import CASES, LOSSES, PASSES, Net, batch_norm, case_id, loss_id
from tolerances import Claim, assert_close, assert_float32
from torch import Tensor, nn

import fastmaml
from benchmarks import test_ops_bench
from fastmaml import _C, losses, reference
from fastmaml.tracing.trace import trace

ROOT = Path(__file__).resolve().parent.parent
TASKS, SUPPORT, QUERY = 3, 5, 4
RATE = 0.1


# --- one meta-step on each side -------------------------------------------------------------------


class Answer(NamedTuple):
    task_losses: Tensor
    logits: Tensor
    gradient: Tensor  # of all parameters, one after another: a layer's own may be 0


Pairs = tuple[tuple[Tensor, Tensor], ...]


def targets(loss: nn.Module, rows: int) -> Tensor:
    if isinstance(loss, nn.CrossEntropyLoss):
        return torch.randint(OUTPUTS, (TASKS, rows))
    return torch.rand(TASKS, rows, OUTPUTS)


def data(loss: nn.Module) -> Pairs:
    return tuple(
        (2 * torch.randn(TASKS, rows, INPUTS), targets(loss, rows)) for rows in (SUPPORT, QUERY)
    )


def answer(
    model: nn.Module,
    tasks: Pairs,
    dtype: torch.dtype,
    *,
    fused: bool,
    **settings: object,
) -> Answer:
    model = model.to(dtype)
    model.zero_grad()
    pairs = [tuple(t.to(dtype) if t.is_floating_point() else t for t in pair) for pair in tasks]
    if fused:
        result = fastmaml.meta_step(model, *pairs, backend="fused", **settings)
        assert result.backend == "fused"
    else:
        result = reference.meta_step(model, *pairs, **settings)
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return Answer(result.task_losses, result.logits, torch.cat(gradients))


def every_set() -> Iterator[str]:
    """Every instruction set that this machine can run, in force while it is in hand."""
    best = _C.instruction_set()
    try:
        for name in _C.available_instruction_sets():
            _C.force_instruction_set(name)
            yield name
    finally:
        _C.force_instruction_set(best)


def check(
    model: nn.Module,
    tasks: Pairs,
    *,
    single: bool = True,
    times: Claim | None = None,
    **settings: object,
) -> None:
    """Assert that the engine agrees with the reference in double, and in single with the truth."""
    truth = answer(model, tasks, torch.float64, fused=False, **settings)
    for _ in every_set():
        ours = answer(model, tasks, torch.float64, fused=True, **settings)
        for actual, expected in zip(ours, truth, strict=True):
            assert_close(actual, expected, "op_f64")
    if not single:
        return
    torchs = answer(model, tasks, torch.float32, fused=False, **settings)
    for _ in every_set():
        ours = answer(model, tasks, torch.float32, fused=True, **settings)
        for actual, expected, exact in zip(ours, torchs, truth, strict=True):
            assert_float32(actual, expected, exact, times=times)


def check_bits(case: OpCase, dtype: torch.dtype) -> None:
    """Assert that neither threads nor neighbouring tasks change a bit of the outputs."""
    model, loss = case.model().to(dtype), nn.MSELoss()
    (x, y), query = ((pair[0].to(dtype), pair[1].to(dtype)) for pair in data(loss))
    settings = {"loss": loss, "inner_lr": RATE, "inner_steps": 2, "backend": "fused"}
    for isa in every_set():
        together = fastmaml.adapt(model, (x, y), **settings).parameters
        for task in range(TASKS):
            pair = x[task : task + 1].clone(), y[task : task + 1].clone()
            alone = fastmaml.adapt(model, pair, **settings).parameters
            for name, weight in alone.items():
                assert torch.equal(weight[0], together[name][task]), (isa, name, task)
    settings.pop("backend")
    answers = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        answers.append(answer(model, ((x, y), query), dtype, fused=True, **settings))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


# --- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_op_agrees(case: OpCase, settings: dict[str, object]) -> None:
    loss = nn.MSELoss()
    check(case.model(), data(loss), loss=loss, inner_lr=RATE, **settings)


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("loss", LOSSES, ids=loss_id)
def test_loss_agrees(loss: nn.Module, settings: dict[str, object]) -> None:
    check(Net(torch.tanh), data(loss), loss=loss, inner_lr=RATE, **settings)


KINKS: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {  # where derivatives jump
    "relu": (torch.relu, [0.0, -0.0]),
    "leaky_relu": (F.leaky_relu, [0.0, -0.0]),
    "leaky_relu, negative": (lambda x: F.leaky_relu(x, -0.5), [0.0, -0.0]),
    "elu": (F.elu, [0.0, -0.0]),
    "elu, alpha": (lambda x: F.elu(x, 1.7), [0.0, -0.0]),
    "softplus": (
        lambda x: F.softplus(x, 2.0, 3.0),
        [1.5, math.nextafter(1.5, 2), math.nextafter(1.5, 1)],
    ),
    "softplus, threshold 0": (lambda x: F.softplus(x, 2.0, 0.0), [0.0, -0.0]),
}


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize(("function", "places"), KINKS.values(), ids=KINKS)
def test_kinks_are_torchs(
    function: Callable[[Tensor], Tensor], places: list[float], settings: dict[str, object]
) -> None:
    values = torch.tensor([*places, -1.0, 1.0], dtype=torch.float64)
    model = nn.Sequential(nn.Linear(len(values), len(values)), Function(function))
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    support = values.expand(1, 1, -1), torch.rand(1, 1, len(values))
    query = torch.randn(1, 2, len(values)), torch.rand(1, 2, len(values))
    if settings["inner_steps"] == 0:
        query = support
    loss = nn.MSELoss(reduction="sum")
    check(model, (support, query), single=False, loss=loss, inner_lr=RATE, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_bits_depend_on_neither_threads_nor_neighbours(case: OpCase, dtype: torch.dtype) -> None:
    check_bits(case, dtype)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_hessians_are_symmetric(case: OpCase) -> None:
    model, loss = case.model(), nn.MSELoss()
    support, first = data(loss)
    _, second = data(loss)

    def direction_and_product(query: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        settings = {"loss": loss, "inner_lr": RATE, "inner_steps": 1}
        tasks = tuple(tuple(t[:1] for t in pair) for pair in (support, query))
        v = answer(model, tasks, torch.float64, fused=True, first_order=True, **settings)
        moved = answer(model, tasks, torch.float64, fused=True, **settings)
        return v.gradient, (v.gradient - moved.gradient) / RATE

    (u, hu), (v, hv) = map(direction_and_product, (first, second))
    scale = u.norm() * hv.norm()
    assert_close((u @ hv) / scale + 1, (v @ hu) / scale + 1, "meta_f64")


MIX_ROWS = {"batch_norm", "centre", "stem", "patches"}


@pytest.mark.parametrize("case", [c for c in CASES if c.op not in MIX_ROWS], ids=case_id)
def test_nan_and_infinity_pass_through_as_in_torch(case: OpCase) -> None:
    model, loss = case.model(), nn.MSELoss()
    (x, y), query = data(loss)
    query[0][0, 0, 0], query[0][1, 0, 0] = torch.nan, torch.inf
    settings = {"loss": loss, "inner_steps": 0}
    ours = answer(model, ((x, y), query), torch.float32, fused=True, **settings)
    torchs = answer(model, ((x, y), query), torch.float32, fused=False, **settings)
    assert torch.equal(ours.logits.isfinite(), torchs.logits.isfinite())
    assert torch.equal(ours.task_losses.isfinite(), torchs.task_losses.isfinite())


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("loss", LOSSES[2:], ids=loss_id)
def test_losses_are_stable_for_large_logits(loss: nn.Module, settings: dict[str, object]) -> None:
    model = nn.Linear(INPUTS, OUTPUTS)
    with torch.no_grad():
        model.weight.mul_(1000)
    check(model, data(loss), single=False, loss=loss, inner_lr=RATE, **settings)


def test_batch_norm_is_stable_for_a_large_mean() -> None:
    model = nn.Sequential(batch_norm(INPUTS), nn.Linear(INPUTS, OUTPUTS))
    tasks = tuple((x + 1000, y) for x, y in data(nn.MSELoss()))
    ours, torchs, truth = (
        answer(model, tasks, dtype, fused=fused, loss="mse", inner_steps=0)
        for dtype, fused in (
            (torch.float32, True),
            (torch.float32, False),
            (torch.float64, False),
        )
    )
    for actual, expected, exact in zip(ours, torchs, truth, strict=True):
        assert_float32(actual, expected, exact)


@pytest.mark.parametrize("rows", [(1, 2), (2, 1)], ids=["support", "query"])
def test_batch_statistics_of_one_row_are_refused(rows: tuple[int, int]) -> None:
    tasks = [(torch.randn(2, n, INPUTS), torch.rand(2, n, OUTPUTS)) for n in rows]
    with pytest.raises(fastmaml.ShapeError, match=r"more than one row per task, got 1; use more"):
        fastmaml.meta_step(Net(batch_norm()), *tasks, loss="mse", backend="fused")


# --- nothing is left out --------------------------------------------------------------------------


INSERTED = {"centre", "patches", "permute", "stem"}  # by the planner: they have no translator


def test_every_op_has_a_case_and_a_translator() -> None:
    assert {case.op for case in CASES} == set(_C.op_names()) | {"reshape"}
    for case in CASES:
        model = case.model()
        network = trace(model, (INPUTS,))
        if case.op in INSERTED:
            text = fastmaml.describe(model, *data(nn.MSELoss()), loss="mse")
            line = rf"^  ({case.op} +step 0 |\w+ +step 0 .* {case.op}\.forward)"
            assert re.search(line, text, re.MULTILINE), case
        else:
            assert case.op in {node.op for node in network.nodes}, case


def test_every_loss_has_a_case_and_a_translator() -> None:
    assert {losses.resolve(loss).op for loss in LOSSES} == set(_C.loss_names())


def test_every_op_is_benchmarked() -> None:
    layers = [*test_ops_bench.LAYERS.values(), *test_ops_bench.IMAGE_LAYERS.values()]
    apart = {"linear", "conv2d", "patches", "stem"}
    # Made of two instructions of the others.
    assert {op for op, _ in layers} | apart | {"centre"} == set(_C.op_names())
    assert set(test_ops_bench.LOSSES) == set(_C.loss_names())


def test_every_op_has_a_card() -> None:
    for folder in (ROOT / "csrc/ops").iterdir():
        if folder.is_dir() and folder.name != "window":  # what several ops share
            assert (folder / f"{folder.name}.hpp").exists(), folder
