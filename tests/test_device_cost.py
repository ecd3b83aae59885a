"""What a plan would cost on a device: launches, FLOPs and bytes of a network counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
from forced import Force
from torch import nn

from fastmaml import losses
from fastmaml.engine.binding import CompiledPlan, PlanSettings
from fastmaml.tracing.trace import trace

PLENTY = 160 * 1024  # shared memory of a block, in bytes


def plan(
    model: nn.Module, row: tuple[int, ...], rows: int = 2, steps: int = 1, **settings: Any
) -> CompiledPlan:
    return CompiledPlan(
        trace(model, row),
        losses.resolve(settings.pop("loss", "mse")),
        PlanSettings(
            mode=settings.pop("mode", "meta_step"),
            float64=settings.pop("float64", False),
            support_rows=rows,
            query_rows=rows,
            inner_steps=steps,
            first_order=settings.pop("first_order", False),
            rate_grad=False,
            **settings,
        ),
    )


def kinds(cost: Any) -> dict[str, tuple[int, float, float]]:
    return {k.kind: (k.instructions, k.flops, k.bytes) for k in cost.kinds}


# A linear layer of I inputs and O outputs without a bias; R rows in either set, T tasks.
I, O, R, T = 3, 2, 4, 5  # noqa: E741
LINEAR = nn.Linear(I, O, bias=False)


X, W, Y = R * I, I * O, R * O


def test_the_query_loss_of_a_linear_layer_by_hand() -> None:
    """No inner step: W is transposed once, y = x W^T, then the loss; two kernels write words."""
    cost = plan(LINEAR, (I,), R, 0, mode="evaluate").device_cost(T, 0)
    assert kinds(cost) == {
        "transpose": (1, 0.0, 4 * 2 * W),
        # Each task reads its x and writes its y; W is read once for all of them.
        "contract": (1, 2.0 * T * R * I * O, 4 * (T * (X + Y) + W)),
        # Logits and targets in, one number out.
        "mse": (1, 0.0, 4 * T * (2 * Y + 1)),
        # Where 13 spaces lie, and 4 scalars.
        "words": (2, 0.0, 8 * (13 + 4)),
    }
    assert (cost.launches, cost.kernels, cost.rounds) == (1, 5, 1)
    assert cost.flops == sum(kind.flops for kind in cost.kinds)
    assert cost.bytes == sum(kind.bytes for kind in cost.kinds)


def test_the_first_order_step_of_a_linear_layer_by_hand() -> None:
    cost = plan(LINEAR, (I,), R, 1, first_order=True, factored=0).device_cost(T, 0)
    product = 2.0 * R * I * O
    each = [
        X + Y,  # support y = x theta^T
        Y + X + W,  # phi = theta - alpha y_bar^T x
        X + W + Y,  # query y = x phi^T
        Y + X + W,  # v = y_bar^T x
        W,  # the sum of v over tasks
    ]
    # The gradient cleared, theta in the product and in the update, the gradient in and out with
    # the number one.
    together = W + W + W + 2 * W + 1
    found = kinds(cost)
    assert found["contract"] == (6, T * (4 * product + 2 * W), 4 * (T * sum(each) + together))
    assert found["transpose"] == (2, 0.0, 4 * (2 * W + T * 2 * W))  # theta, every phi
    assert found["mse"] == (3, 0.0, 4 * T * (3 * Y + (2 * Y + 1) + 3 * Y))
    assert cost.kernels == 6 + 2 + 3 + 2


def test_flops_are_those_of_the_plan() -> None:
    for steps in (0, 1, 3):
        compiled = plan(nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)), (7,), 4, steps)
        for limit in (0, PLENTY):
            assert compiled.device_cost(T, limit).flops == compiled.plan.flops(T)


def test_the_resident_kernel_moves_what_is_not_on_chip() -> None:
    """One launch; its bytes are those of the call's arrays, and of the gradients cleared before."""
    compiled = plan(LINEAR, (I,), R, 0, mode="evaluate")
    cost = compiled.device_cost(T, PLENTY)
    assert (cost.obstacle, cost.launches, cost.kernels) == ("", 1, 1)
    x, w, y = T * X, W, T * Y
    # In: data, targets, weight. Out: logits, losses. The loss reads the logits that were written.
    assert cost.bytes == 4 * (x + y + w + y + y + T)


def test_rounds_repeat_the_body() -> None:
    compiled = plan(LINEAR, (I,), R, 2)
    whole, parts = compiled.device_cost(6, 0), compiled.device_cost(6, 0, lanes=2)
    assert (whole.rounds, parts.rounds) == (1, 3)
    assert parts.flops == whole.flops
    assert parts.workspace_bytes < whole.workspace_bytes
    # What all tasks share is read again in every round.
    assert parts.bytes > whole.bytes
    fixed = kinds(whole)["words"][0]
    once = kinds(compiled.device_cost(6, 0, lanes=3))
    for kind, (instructions, _, _) in kinds(whole).items():
        if kind in ("pointwise", "mse"):
            assert once[kind][0] == 2 * instructions
    assert kinds(parts)["words"][0] == fixed


def test_bytes_grow_with_the_dtype_and_the_tasks() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    single, double = (plan(net, (6,), float64=wide).device_cost(8, 0) for wide in (False, True))
    words = kinds(single)["words"][2]
    assert double.bytes - words == 2 * (single.bytes - words)
    assert single.bytes < plan(net, (6,)).device_cost(16, 0).bytes < 2 * single.bytes


IMAGES = nn.Sequential(
    nn.Conv2d(2, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
    nn.Linear(12, 2),
)  # fmt: skip


def test_images_by_hand() -> None:
    """The forward pass of a convolution over 4 x 4 pixels and of what follows it."""
    cost = plan(IMAGES, (2, 4, 4), R, 0, mode="evaluate").device_cost(T, PLENTY)
    assert "kernels of all the instructions" in cost.obstacle
    found = kinds(cost)
    pixels, weight = 16, 9 * 2 * 3
    pairs = 4 * 9 + 8 * 6 + 4 * 4  # of a pixel inside, on a side, in a corner, and its taps
    inside = sum(
        sum(0 <= y + dy < 4 and 0 <= x + dx < 4 for dy in (-1, 0, 1) for dx in (-1, 0, 1))
        for y in range(4)
        for x in range(4)
    )
    assert inside == pairs
    assert found["conv2d"] == (
        1,
        2.0 * T * R * inside * 2 * 3,
        4 * (T * R * pixels * (2 + 3) + weight + 3),
    )
    # x in, y out, weight and bias, mean and rstd of each row.
    assert found["group_norm"] == (1, 0.0, 4 * (T * (2 * R * pixels * 3 + 2 * R) + 2 * 3))
    assert found["pool2d"] == (1, 0.0, 4 * T * R * 3 * (pixels + pixels // 4))
    # Only relu: every number in and out.
    assert found["pointwise"] == (1, 0.0, 4 * T * 2 * R * pixels * 3)


@pytest.mark.parametrize(
    ("tasks", "limit", "lanes", "team", "said"),
    [
        (4, PLENTY, 0, 0, ""),
        (4, 1024, 0, 0, "outgrows"),
        (4, PLENTY, 2, 0, "several rounds"),
        (513, PLENTY, 0, 0, "more than 512 tasks"),
        (4, PLENTY, 0, 2, "share a task"),
    ],
)
def test_why_a_call_is_not_resident(
    tasks: int, limit: int, lanes: int, team: int, said: str, force: Force
) -> None:
    force(team=team)
    obstacle = plan(LINEAR, (I,)).device_cost(tasks, limit, lanes).obstacle
    assert said in obstacle
    assert bool(said) == bool(obstacle)


def test_a_network_of_many_tensors_is_not_resident() -> None:
    layers = [nn.Linear(2, 2) for _ in range(130)]
    obstacle = plan(nn.Sequential(*layers), (2,)).device_cost(2, 1 << 30).obstacle
    assert "more tensors" in obstacle
