"""What programs hold: counted as the allocator has it, linear in inner steps, within the limit."""

from __future__ import annotations

import ctypes
import gc
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastmaml
from fastmaml.engine import binding, plan
from fastmaml.engine.binding import CompiledPlan, PlanSettings, Purpose
from fastmaml.losses import resolve
from fastmaml.tracing.trace import trace

PURPOSES: tuple[Purpose, ...] = ("meta_step", "adapt", "evaluate", "curve")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def conv4() -> nn.Module:
    blocks = [
        layer
        for i, o in ((1, 4), (4, 4), (4, 4), (4, 4))
        for layer in (nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16, 3))


def pooled(convolutions: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        *(nn.Conv2d(2, 2, 3, padding=1) for _ in range(convolutions)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip


MODELS = {"mlp": (mlp, (6,)), "conv4": (conv4, (1, 28, 28))}


def compiled(
    model: nn.Module, row: tuple[int, ...], steps: int, purpose: Purpose = "meta_step", **more: Any
) -> CompiledPlan:
    return CompiledPlan(
        trace(model, row), resolve("cross_entropy", "test"), PlanSettings(
            mode=purpose, float64=False, support_rows=4, query_rows=5, inner_steps=steps,
            first_order=False, rate_grad=False, **more,
        ),
    )  # fmt: skip


def instructions(made: CompiledPlan) -> int:
    text = made.describe(1, 1, 0, torch.device("cpu"))
    return sum(int(n) for n in re.findall(r": (\d+) instructions", text))


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("name", MODELS)
def test_every_inner_step_adds_the_same(name: str, purpose: Purpose) -> None:
    make, row = MODELS[name]
    made = [compiled(make(), row, steps, purpose, factored=0) for steps in (20, 40, 80, 160)]
    for count in (instructions, CompiledPlan.program_bytes):
        a, b, c, d = map(count, made)
        assert b - a > 0
        slack = 0 if count is instructions else 128  # blocks are whole grains
        assert abs(c - b - 2 * (b - a)) <= slack
        assert abs(d - c - 4 * (b - a)) <= slack
    a, b = made[0], made[1]
    each = (b.program_bytes() - a.program_bytes()) / (instructions(b) - instructions(a))
    assert each < 600, "an instruction holds its own arguments, not room for any"


class _Heap(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for names in (
            ["arena", "ordblks", "smblks", "hblks", "hblkhd"],
            ["usmblks", "fsmblks"],
            ["uordblks", "fordblks", "keepcost"],
        )
        for name in names
    )


def heap_bytes() -> int:
    """What the process has from the allocator now."""
    try:
        mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
    except (AttributeError, OSError):
        pytest.skip("this C library does not say what it has given")
    mallinfo.restype = _Heap
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


@pytest.mark.parametrize(
    ("model", "row", "steps"),
    [(mlp(), (6,), 300), (conv4(), (1, 28, 28), 100), (pooled(), (1, 400, 400), 2)],
    ids=["mlp", "conv4", "large images"],
)
def test_what_is_counted_is_what_the_allocator_gave(
    model: nn.Module, row: tuple[int, ...], steps: int
) -> None:
    compiled(model, row, 1)  # whatever a first one leaves behind
    gc.collect()
    before = heap_bytes()
    made = compiled(model, row, steps)
    gc.collect()
    assert made.program_bytes() == pytest.approx(heap_bytes() - before, rel=0.05)


def test_layers_of_one_window_share_its_map() -> None:
    row = (1, 200, 200)
    one, four = (compiled(pooled(count), row, 1, winograd=0).program_bytes() for count in (1, 4))
    assert four < 1.2 * one
    other = compiled(pooled(), (1, 400, 400), 1, winograd=0).program_bytes()
    assert other > 3 * one, "and it is what large images' programs are made of"


def test_an_average_over_an_image_sets_no_pixel_apart() -> None:
    side = 200
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert compiled(model, (1, side, side), 1).program_bytes() < 64 * side**2


def test_the_memory_of_a_call_is_its_workspace_and_its_program() -> None:
    model, x = pooled(), torch.rand(1, 2, 1, 100, 100)
    data = x, torch.zeros(1, 2, dtype=torch.int64)
    text = fastmaml.describe(model, data, data)
    workspace, program = (
        int(found[1])
        for kind in ("workspace", "program")
        if (found := re.search(rf"^{kind} (\d+) bytes", text, re.MULTILINE))
    )
    total = fastmaml.workspace_bytes(model, data, data)
    assert total == workspace + program
    assert program > 8 * 4 * 100**2, "four maps of as many pixels"
    fastmaml.meta_step(model, data, data, recompute=False, max_workspace_bytes=total)
    with pytest.raises(fastmaml.SettingError) as caught:
        fastmaml.meta_step(model, data, data, recompute=False, max_workspace_bytes=program)
    assert f", {program} of them for its program, got {program}; " in str(caught.value)


def test_a_program_beyond_the_limit_is_not_finished() -> None:
    model, data = mlp(), (torch.randn(2, 4, 6), torch.randint(3, (2, 4)))
    for call, sets in (
        (fastmaml.meta_step, (data, data)),
        (fastmaml.meta_loss, (data, data)),
        (fastmaml.workspace_bytes, (data, data)),
        (fastmaml.describe, (data, data)),
        (fastmaml.adapt, (data,)),
    ):
        with pytest.raises(fastmaml.SettingError) as caught:
            call(model, *sets, inner_steps=10000, max_workspace_bytes=17_000_000)
        assert str(caught.value) == (
            f"{call.__name__}: the program of inner_steps=10000 must have at most 17000000 bytes, "
            "and has more; raise max_workspace_bytes or give fewer inner steps."
        )
    (traced,) = (held for _, held in plan.lookup(model).networks.everything())
    assert isinstance(traced, plan.Traced)
    assert not traced.plans


def test_a_large_program_may_have_just_its_size() -> None:
    """While it is written it is larger: every ReLU here is fused away in the end."""
    make = [nn.Linear(6, 6), nn.ReLU()] * 6
    x = torch.randn(1, 4, 6)
    settings: dict[str, Any] = {"loss": "mse", "inner_steps": 1000, "recompute": False}
    least = fastmaml.workspace_bytes(nn.Sequential(*make), (x, x), (x, x), **settings)
    assert least > 20_000_000
    again = fastmaml.workspace_bytes(
        nn.Sequential(*make), (x, x), (x, x), **settings, max_workspace_bytes=least
    )
    assert again == least


def test_what_was_planned_in_vain_is_not_kept() -> None:
    model, data = mlp(), (torch.randn(2, 4, 6), torch.randint(3, (2, 4)))
    settings: dict[str, Any] = {"inner_steps": 50, "inner_lr": 0.1}
    kept = fastmaml.workspace_bytes(model, data, data, **settings, recompute=False)
    again = fastmaml.workspace_bytes(model, data, data, **settings, recompute=True)
    other = mlp()
    fastmaml.meta_step(other, data, data, **settings, max_workspace_bytes=max(kept, again))
    (traced,) = (held for _, held in plan.lookup(other).networks.everything())
    assert isinstance(traced, plan.Traced)
    assert len(traced.plans) == 1
    with pytest.raises(fastmaml.SettingError):
        fastmaml.meta_step(other, data, data, inner_steps=50, max_workspace_bytes=100_000)
    assert len(traced.plans) == 1


class _Copies(TorchDispatchMode):
    """Bytes of all that torch makes meanwhile; what the engine makes is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func._schema.name in ("aten::clone", "aten::_to_copy", "aten::empty_like"):
            self.bytes += made.nbytes if isinstance(made, Tensor) else 0
        return made


def test_adapt_copies_only_what_no_layer_uses() -> None:
    model = mlp()
    data = torch.randn(20, 4, 6), torch.randint(3, (20, 4))
    fastmaml.adapt(model, data, backend="fused")  # the trace runs on copies
    with _Copies() as copies:
        adapted = fastmaml.adapt(model, data, backend="fused")
    assert copies.bytes == 0
    assert adapted.parameters.keys() == dict(model.named_parameters()).keys()
    model.unused = nn.Parameter(torch.ones(7))
    fastmaml.adapt(model, data, backend="fused")
    with _Copies() as copies:
        adapted = fastmaml.adapt(model, data, backend="fused")
    assert copies.bytes == 20 * 7 * 4
    assert torch.equal(adapted.parameters["unused"], torch.ones(20, 7))


def test_adapt_takes_no_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = binding.take_workspace

    def watched(size: int, device: torch.device) -> Tensor:
        taken.append(size)
        return take(size, device)

    monkeypatch.setattr(binding, "take_workspace", watched)
    torch.set_num_threads(2)
    model = nn.Sequential(nn.Linear(100, 300), nn.ReLU(), nn.Linear(300, 5))
    data = torch.randn(20, 5, 100), torch.randint(5, (20, 5))
    with pytest.raises(fastmaml.SettingError) as caught:
        fastmaml.adapt(model, data, max_workspace_bytes=1000)
    found = re.search(r"at least (\d+) for this call, (\d+) of them", str(caught.value))
    assert found is not None
    least, program = map(int, found.groups())
    adapted = fastmaml.adapt(model, data, max_workspace_bytes=least)
    assert max(taken) == taken[-1] == least - program, "and the comparison before it takes less"
    assert least < sum(p.nbytes for p in adapted.parameters.values())
