"""The profile behind the op benchmarks: the run's outputs, every pass, the necessary arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.passes import LOSS_PASSES, PASSES, SUMS, Profiled, total_by_pass
from benchmarks.workloads import WORKLOADS, make_problem
from fastmaml.engine.allocate import InstructionTime

LOSSES = ["mse", "cross_entropy", "bce_with_logits"]
NARROW = replace(WORKLOADS["wide-mlp"], widths=(9, 8, 7, 3), tasks=2, inner_steps=1, bias=False)


def step(loss: str = "mse", factored: int = 0, *, rate_grad: bool = False) -> Profiled:
    model = nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.LeakyReLU(), nn.Linear(5, 2)
    ).double()
    x, y = torch.randn(3, 4, 3).double(), torch.rand(3, 4, 2).double()
    data = (x, y.argmax(-1) if loss == "cross_entropy" else y)
    return Profiled(model, data, loss, factored=factored, rate_grad=rate_grad)


@pytest.mark.parametrize("factored", [0, 1])
@pytest.mark.parametrize("loss", LOSSES)
def test_all_passes_of_every_layer_appear(loss: str, factored: int) -> None:
    profiled = step(loss, factored)
    profiled()
    for node in profiled.network.nodes:
        assert list(total_by_pass(profiled.times[0], {node.name})) == list(PASSES)
    assert list(total_by_pass(profiled.times[0], {loss})) == list(LOSS_PASSES)
    linear = profiled.layers("linear")
    assert list(total_by_pass(profiled.times[0], linear, whole_program=True)) == [*PASSES, SUMS]


@pytest.mark.parametrize("factored", [0, 1])
def test_outputs_are_bitwise_those_of_a_run(factored: int) -> None:
    profiled = step(factored=factored, rate_grad=True)
    arguments = profiled._tasks, profiled._theta, 0.1
    torch.set_num_threads(2)
    expected = profiled._plan.run(*arguments)
    with torch.inference_mode():
        found, times = profiled._plan.profile(*arguments)
    assert expected.rate_dots is not None
    assert found.rate_dots is not None
    ours = [found.task_losses, found.logits, found.rate_dots, *found.tensors]
    theirs = [expected.task_losses, expected.logits, expected.rate_dots, *expected.tensors]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert sum(time.flops for time in times) == profiled._plan.plan.flops(3)


def test_flops_of_the_passes_are_the_necessary_ones() -> None:
    problem = make_problem(NARROW, "float64")
    model, (data, _) = problem.module(), problem.tensors()
    profiled = Profiled(model, data, NARROW.loss)
    profiled()
    total = total_by_pass(profiled.times[0], profiled.layers("linear"), whole_program=True)
    assert sum(total[name].flops for name in PASSES) == NARROW.necessary_flops
    # One product each with the first weight; 1, 2, 2 and 4 with the others, of x, y_bar and their
    # tangents. The sets have the same rows.
    product = [2 * 2 * 25 * size for size in (9 * 8, 8 * 7 + 7 * 3)]
    sets = {"forward": (2, 2), "backward": (2, 4), "forward_jvp": (1, 2), "backward_jvp": (1, 4)}
    for name, (first, others) in sets.items():
        assert total[name].flops == first * product[0] + others * product[1]


def test_totals_are_of_the_layers_asked_for() -> None:
    times = [
        InstructionTime("step 0 a.b.forward", 1.0, 10.0),
        InstructionTime("query a.b.forward", 2.0, 20.0),
        InstructionTime("query a.b.forward", 4.0, 40.0),
        InstructionTime("query b.forward", 8.0, 80.0),
        InstructionTime("u = -alpha v", 16.0, 160.0),
        InstructionTime("step 10 a.b.forward_jvp", 32.0, 320.0),
        InstructionTime("a.b.weight.meta_grad", 64.0, 640.0),
    ]
    alone = total_by_pass(times, {"a.b"})
    assert {n: (t.seconds, t.flops, t.visits) for n, t in alone.items()} == {
        "forward": (7.0, 70.0, 2),
        "forward_jvp": (32.0, 320.0, 1),
    }
    whole = total_by_pass(times, {"a.b"}, whole_program=True)
    assert {n: (t.seconds, t.flops, t.visits) for n, t in whole.items()} == {
        "forward": (7.0, 70.0, 2),
        "forward_jvp": (48.0, 320.0, 1),
        SUMS: (64.0, 640.0, 0),
    }
