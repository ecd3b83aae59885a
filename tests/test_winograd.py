"""Convolutions by Winograd's method, forced on them or chosen: every pass against torch."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from forced import Force
from op_case import INPUTS, OpCase
from op_cases import PASSES, case_id
from op_cases_image import ImageNet, ManyChannels, Twice, conv, image
from test_ops import RATE, answer, check, check_bits, data
from tolerances import Claim
from torch import nn

import fastmaml


def sized(variant: str, shape: tuple[int, int, int], out: int, padding: object) -> OpCase:
    return image("conv2d", variant, lambda: nn.Conv2d(shape[0], out, 3, padding=padding), "", shape)


CASES = [
    conv("inside", 2, 3, 3),
    conv("same", 2, 3, 3, padding=1),
    conv("no bias", 2, 3, 3, padding="same", bias=False),
    conv("wider than the image", 1, 2, 3, padding=2),
    conv("padding of rows alone", 2, 1, 3, padding=(3, 0)),
    conv("frozen weight", 2, 3, 3, padding=1, freeze="op.weight"),
    conv("frozen bias", 2, 3, 3, padding=1, freeze="op.bias"),
    conv("frozen first", 2, 3, 3, padding=1, freeze="first.weight first.bias"),
    conv("bias alone", 2, 3, 3, padding=1, freeze="first.weight first.bias op.weight"),
    sized("one pixel to one", (2, 1, 1), 3, 1),
    sized("nine pixels to one", (2, 3, 3), 3, 0),
    sized("odd", (3, 5, 7), 4, 1),
    sized("even", (3, 4, 6), 4, 1),
    sized("ragged vectors", (17, 4, 3), 33, 1),
    sized("several blocks of tiles", (2, 31, 29), 3, 1),
    image("conv2d", "twice", Twice),
    image("conv2d", "streamed weights", lambda: ManyChannels(260, 131, 3, padding=1)),
    image("conv2d", "several panels", lambda: ManyChannels(70, 170, 3, padding=1)),
]


# The forward pass takes its own tiles, which round no more than a plain sum.
FORWARD = "F(2x2)"
# What float32 may cost, by the side of the others' tiles.
MAGNIFIED: dict[int, Claim] = {5: "winograd_5", 6: "winograd_6"}


@pytest.fixture(params=[5, 6])
def tile(request: pytest.FixtureRequest, force: Force) -> int:
    """Every convolution that can takes Winograd's method, but forward with tiles of this side."""
    force(winograd=request.param)
    return int(request.param)


def description(model: nn.Module, **settings: object) -> str:
    return fastmaml.describe(model, *data(nn.MSELoss()), loss="mse", **settings)


def tiles(text: str) -> set[str]:
    return set(re.findall(r", Winograd (\S+)", text))


@pytest.mark.parametrize("settings", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_every_pass_agrees(case: OpCase, settings: dict[str, object], tile: int) -> None:
    loss, model = nn.MSELoss(), case.model()
    others = set() if case.variant == "bias alone" else {f"F({tile}x{tile})"}
    assert tiles(description(model, **settings)) == {FORWARD} | others
    check(model, data(loss), loss=loss, inner_lr=RATE, times=MAGNIFIED[tile], **settings)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_bits_depend_on_neither_threads_nor_neighbours(case: OpCase, dtype: torch.dtype) -> None:
    check_bits(case, dtype)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES[-3:], ids=case_id)
def test_one_task_has_the_same_bits_by_teams_of_any_size(case: OpCase, dtype: torch.dtype) -> None:
    loss = nn.MSELoss()
    model, tasks = case.model(), [(x[:1], y[:1]) for x, y in data(loss)]
    answers = []
    for threads in (1, 2, 3, 4, 6):
        torch.set_num_threads(threads)
        answers.append(answer(model, tasks, dtype, fused=True, loss=loss, inner_lr=RATE))
    for other in answers[1:]:
        assert all(map(torch.equal, answers[0], other))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("row", [5, 11])
def test_what_is_not_finite_spreads_to_its_tiles_alone(value: float, row: int, tile: int) -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 12, 12)), nn.Conv2d(1, 1, 3, padding=1), nn.Flatten())
    x, y = torch.rand(1, 3, 144), torch.rand(1, 3, 144)
    query = x.clone()
    query[0, 1, row * 12 + 6] = value
    settings = {"loss": "mse", "inner_steps": 0, "backend": "fused"}
    logits = fastmaml.meta_step(model, (x, y), (query, y), **settings).logits
    finite = logits.view(3, 12, 12).isfinite()
    assert not finite[1, row - 1 : row + 2, 5:8].any()
    for number, y, x in (~finite).nonzero().tolist():
        if number == 1:
            assert abs(y - row) <= tile
            assert abs(x - 6) <= tile
        else:  # in the same tile, beside it or below it
            assert min(y, x) < tile


def wide(channels: int, side: int = 8) -> ImageNet:
    return ImageNet(nn.Conv2d(channels, channels, 3, padding=1), (channels, side, side))


@pytest.mark.parametrize(
    ("channels", "side", "chosen"), [(3, 8, "direct"), (64, 10, "F(5x5)"), (64, 12, "F(6x6)")]
)
def test_the_cost_decides(channels: int, side: int, chosen: str) -> None:
    text = description(wide(channels, side))
    ways = ["direct convolution"] * 2
    if chosen != "direct":
        ways = [f"Winograd's {name[:-1]},3x3)" for name in (FORWARD, chosen)]
    first, then = map(re.escape, ways)
    costs = r"\d+ cycles direct, \d+ by F\(5x5\), \d+ by F\(6x6\)"
    forward = rf"forward {first} \(estimated \d+ cycles direct, \d+ by F\(2x2\)\)"
    line = rf"^layer op: {forward}, otherwise {then} \(estimated {costs}\)$"
    assert re.search(line, text, re.MULTILINE)
    assert tiles(text) == (set() if chosen == "direct" else {FORWARD, chosen})


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("other", [nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, groups=2)])
def test_other_windows_have_no_choice(other: nn.Module) -> None:
    assert "Winograd" not in description(ImageNet(other, (6, 5, 4)))


def necessary(text: str) -> list[str]:
    return re.findall(r"^contractions .*$", text, re.MULTILINE)


@pytest.mark.parametrize("make", [lambda: wide(8), lambda: nn.Linear(INPUTS, 2)])
def test_flops_are_those_of_a_product_for_each_tap(
    make: Callable[[], nn.Module], force: Force
) -> None:
    model, found = make(), []
    for winograd in (0, 5, 6):
        force(winograd=winograd)
        found.append(necessary(description(model)))
    assert found[0]
    assert found == found[:1] * 3


def test_tiles_of_other_sizes_are_refused(force: Force) -> None:
    force(winograd=4)
    with pytest.raises(fastmaml.SettingError, match="winograd must be -1, 0, 5 or 6, got 4"):
        description(wide(3))
