"""The door in C: what it lets through is what the door in Python does, and good data all is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from door import CPU, Q, S, classes, inputs
from hostile_tensors import OBJECTS, hostile
from torch import Tensor

from fastmaml import _C
from fastmaml.losses import resolve
from fastmaml.tasks import Tasks, _judge

LOSSES = [resolve("mse"), resolve("cross_entropy"), resolve(lambda logits, y: logits.sum())]
DTYPES = [torch.float32, torch.float64]


class Batch(NamedTuple):
    """A pair with names."""

    x: Tensor
    y: Tensor


class Turned(tuple[Tensor, Tensor]):
    """A pair that unpacks the other way round."""

    def __iter__(self) -> Iterator[Tensor]:
        return reversed(list(super().__iter__()))


class Short(list[Tensor]):
    """A pair that says it is none."""

    def __len__(self) -> int:
        return 1


def fast(support: Any, query: Any, loss: Any, dtype: Any = torch.float32, device: Any = CPU) -> Any:
    any_y = loss.op is None and not loss.classifies
    return _C.passing(support, query, dtype, device, loss.classifies, any_y)


def pairs(loss: Any, dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    return [
        [inputs(rows, dtype=dtype), classes(rows) if loss.classifies else inputs(rows, dtype=dtype)]
        for rows in (S, Q)
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_good_data_pass(loss: Any, dtype: torch.dtype) -> None:
    (x, y), (qx, qy) = pairs(loss, dtype)
    for make in (tuple, list, lambda pair: Batch(*pair)):
        found = fast(make((x, y)), make((qx, qy)), loss, dtype)
        assert found == _judge("m", (x, y), (qx, qy), dtype, CPU, loss)
        assert type(found[-1]) is tuple
    alone = fast((x, y), (x, y), loss, dtype)
    assert alone[0] is alone[2] is x


@pytest.mark.parametrize("seed", range(20))
def test_what_passes_passes_in_python(seed: int) -> None:
    draw = random.Random(seed)
    passed = 0
    for _ in range(100):
        loss, dtype = draw.choice(LOSSES), draw.choice(DTYPES)
        sets: list[Any] = pairs(loss, dtype)
        at, part = draw.randrange(2), draw.randrange(2)
        if draw.random() < 0.1:
            sets[at] = draw.choice(OBJECTS)()
        else:
            sets[at][part] = hostile(draw, sets[at][part])
        if draw.random() < 0.1:
            sets[1] = sets[0]
        found = fast(*sets, loss, dtype)
        try:
            judged = _judge("m", *sets, dtype, CPU, loss)
        except Exception:
            assert found is None, sets
        else:
            passed += found is not None
            assert found is None or all(map(same, Tasks(*found), judged)), sets
    assert passed > 5


def same(a: object, b: object) -> bool:
    return a is b if isinstance(a, Tensor) else a == b


def test_pairs_that_unpack_otherwise_are_left_to_python() -> None:
    loss = resolve("mse")
    good = tuple(pairs(loss)[0])
    assert fast(good, good, loss)
    for other in (Turned(good), Short(good), (*good, good[0]), good[:1], iter(good)):
        assert fast(other, good, loss) is None
        assert fast(good, other, loss) is None


@pytest.mark.parametrize("device", ["meta", "cuda:0", "cuda", "mps"])
def test_data_elsewhere_do_not_pass(device: str) -> None:
    loss = resolve("mse")
    assert fast(*pairs(loss), loss, device=torch.device(device)) is None


def test_no_dtype_and_no_device() -> None:
    loss = resolve("mse")
    for dtype in (torch.float16, torch.int64, None):
        assert fast(*pairs(loss), loss, dtype=dtype) is None
    with pytest.raises(TypeError, match=r"expected a torch\.device"):
        fast(*pairs(loss), loss, device=torch.ones(1))  # whose .type is a method
    with pytest.raises(AttributeError):
        fast(*pairs(loss), loss, device=3)


# --- y and the model's output ---------------------------------------------------------------------


def fit(output: Any, y: Tensor, indices: bool = True) -> bool:
    good = y.new_zeros(2, 3) if indices else y.new_zeros(2, 3, *output)
    return _C.targets_fit(output, y, good, indices) and _C.targets_fit(output, good, y, indices)


@pytest.mark.parametrize("bad", [-1, 4, 2**62, -(2**63)])
@pytest.mark.parametrize("at", [(0, 0), (1, 2), (0, 2)])
def test_every_class_index_is_looked_at(bad: int, at: tuple[int, int]) -> None:
    y = torch.arange(6).reshape(2, 3) % 4
    wrong = y.clone()
    wrong[at] = bad
    for view in (
        lambda t: t,
        lambda t: t.t().contiguous().t(),
        lambda t: torch.cat([t, t + 9], 1)[:, :3],
        lambda t: torch.stack([t, t - 9], 2)[..., 0],
    ):
        assert fit((4,), view(y))
        assert not fit((4,), view(wrong))


def test_expanded_class_indices() -> None:
    for shape in ((1, 1), (2, 1), (1, 3)):
        good, bad = torch.zeros(shape, dtype=torch.int64), torch.full(shape, 4)
        assert fit((4,), good.expand(2, 3))
        assert not fit((4,), bad.expand(2, 3))
    many = torch.ones(1, 1, dtype=torch.int64).expand(1 << 40, 1 << 20)
    assert _C.targets_fit((2,), many, many, True)


@pytest.mark.parametrize("output", [(), (4, 1), (0,)])
def test_outputs_that_are_no_classes(output: tuple[int, ...]) -> None:
    assert not fit(output, torch.zeros(2, 3, dtype=torch.int64))


def test_targets_of_another_kind() -> None:
    for y in (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int32), torch.zeros(6).long()):
        assert not _C.targets_fit((4,), y, y, True)
    assert fit((4, 1), torch.zeros(2, 3, 4, 1), False)
    for y in (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 2), torch.zeros(2), torch.zeros(())):
        assert not fit((4, 1), y, False)
