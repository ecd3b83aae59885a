"""The binding's loops over modules and tensors: what they say, and what they refuse."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import classification, gradients, network
from torch import Tensor, nn

import fastmaml
from fastmaml import _C
from fastmaml.engine import allocate, binding
from fastmaml.engine.plan_settings import PlanSettings

SHAPES = [torch.Size([2, 3]), torch.Size([4]), torch.Size([])]


LIKE = torch.zeros(1)


class Other(Tensor):
    """May stand for anything."""


def tensors() -> list[Tensor]:
    return [nn.Parameter(torch.randn(2, 3)), torch.randn(4), torch.tensor(1.0)]


# --- reading --------------------------------------------------------------------------------------


def test_tensors_that_fit() -> None:
    for dtype in (torch.float32, torch.float64):
        assert _C.fitting([t.to(dtype) for t in tensors()], SHAPES, torch.ones(1).to(dtype))
    odd = torch.randn(3, 1).as_strided((3, 1), (1, 7))  # what a size of 1 steps by means nothing
    assert odd.is_contiguous()
    assert _C.fitting([odd, torch.randn(0, 3).t()], [odd.shape, torch.Size([3, 0])], odd)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.double(),
        lambda t: t.half(),
        lambda t: t.long(),
        lambda t: t.repeat(2),
        lambda t: t[None],
        lambda t: t.repeat(2)[::2],
        lambda t: t[:1].expand(4),
        lambda t: t.to_sparse(),
        lambda t: t.to("meta"),
        lambda t: t.as_subclass(Other),
        lambda t: t.numpy(),
        lambda t: None,
    ],
    ids=[
        "double", "half", "long", "longer", "dimension", "strided", "expanded", "sparse", "meta",
        "subclass", "array", "none",
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(make: Callable[[Tensor], Any]) -> None:
    first, second, third = tensors()
    assert _C.fitting([first, make(second), third], SHAPES, first) is None


@pytest.mark.parametrize(
    "like", [torch.zeros(2).double(), torch.zeros(2).to("meta"), None], ids=str
)
def test_all_tensors_are_like_one(like: Any) -> None:
    assert _C.fitting(tensors(), SHAPES, like) is None


def test_bad_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match="expected as many shapes as tensors"):
        _C.fitting(tensors(), SHAPES[:2], LIKE)
    with pytest.raises(TypeError, match="expected the shape of each tensor as a tuple"):
        _C.fitting(tensors(), [[2, 3], [4], []], LIKE)
    with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
        _C.fitting(tensors()[1:2], [("a",)], LIKE)
    assert _C.fitting([], [], LIKE) is not None


def test_only_tensors_have_an_address() -> None:
    assert _C.Tensors([*tensors(), torch.randn(3).as_subclass(Other)]) is not None
    for other, kind in ((1, "int"), ("x", "str"), (object(), "object")):
        with pytest.raises(TypeError, match=f"expected a torch.Tensor, got {kind}"):
            _C.Tensors([torch.randn(2), other])
    with pytest.raises(RuntimeError):
        _C.Tensors([torch.randn(2).to_sparse()])


def test_a_torch_without_the_table_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = network(), classification()
    model, data = model.float(), tuple((x.float(), y) for x, y in data)
    found = []
    for old in (False, True):
        if old:
            monkeypatch.setattr(binding, "fitting", lambda *_: None)
            monkeypatch.setattr(allocate, "_EMPTY", allocate._empty_strided)
        model.zero_grad()
        result = fastmaml.meta_step(model, *data, backend="fused")
        found.append([result.loss, result.logits, *gradients(model)])
    assert all(map(torch.equal, *found))


def test_parameters_that_are_not_contiguous_give_the_same_bits() -> None:
    model, data = network().float(), [(x.float(), y) for x, y in classification()]
    fastmaml.meta_step(model, *data, backend="fused")
    plain = gradients(model)
    model.zero_grad()
    weight = model[3].weight
    weight.data = weight.data.t().contiguous().t()
    assert not weight.is_contiguous()
    fastmaml.meta_step(model, *data, backend="fused")
    assert all(map(torch.equal, plain, gradients(model)))


# --- gradients ------------------------------------------------------------------------------------


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(size)) for size in (2, 3, 4)]


def test_gradients_are_given_once() -> None:
    owners = parameters()
    grads = [torch.randn_like(p) for p in owners]
    assert _C.give_grads(owners, grads)
    assert all(p.grad is grad for p, grad in zip(owners, grads, strict=True))
    owners[0].grad = None
    assert not _C.give_grads(owners, grads)
    assert owners[0].grad is None


@pytest.mark.parametrize(
    "wrong", [torch.zeros(5), torch.zeros(4).double(), 1], ids=["shape", "dtype", "number"]
)
def test_all_gradients_or_none(wrong: Any) -> None:
    owners = parameters()
    with pytest.raises((RuntimeError, TypeError), match="grad"):
        _C.give_grads(owners, [torch.randn(2), torch.randn(3), wrong])
    assert [p.grad for p in owners] == [None] * 3


def test_what_has_no_gradient_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'grad'"):
        _C.give_grads([1], [torch.randn(1)])
    with pytest.raises(ValueError, match="expected as many gradients as parameters"):
        _C.give_grads(parameters(), [])


def test_gradients_are_tensors_of_their_own() -> None:
    model, data = network().float(), [(x.float(), y) for x, y in classification()]
    result = fastmaml.meta_step(model, *data, backend="fused")
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    written = [*grads, result.task_losses, result.logits, result.loss]
    places = {t.untyped_storage().data_ptr() for t in written}
    assert len(places) == len(written)
    for tensor in written:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4
        assert tensor.untyped_storage().resizable()
        assert type(tensor) is Tensor
        assert tensor.is_leaf
        assert not tensor.requires_grad
    fastmaml.meta_step(model, *data, backend="fused")
    assert all(p.grad is old for p, old in zip(model.parameters(), grads, strict=True))


def test_new_tensors_are_what_torch_makes() -> None:
    for shape in ((), (0, 3), (3, 0, 2), (2, 1, 3), (5,)):
        layout = allocate.layout(shape, torch.float64)
        expected = torch.empty(shape, dtype=torch.float64)
        found = [*allocate.all_empty([layout], torch.device("cpu"))]
        for tensor in (*found, allocate._empty_strided(*layout)):
            assert (tensor.shape, tensor.stride()) == (expected.shape, expected.stride())
            assert (tensor.dtype, tensor.device) == (expected.dtype, expected.device)


# --- modules --------------------------------------------------------------------------------------


class Unequal:
    """Refuses to be compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("no plain equality")

    __hash__ = object.__hash__


def holds(
    equal: Any = (), same: Any = (), empty: Any = (), flags: Any = (), items: Any = ()
) -> bool:
    return _C.Snapshot(*(list(part) for part in (equal, same, empty, flags, items))).holds()


def test_snapshots() -> None:
    value = torch.randn(2)
    assert holds()
    assert holds([({"a": 1.5}, {"a": 1.5}), ([1, 2], [1, 2]), ({1}, {1})])
    assert holds([({"a": 1, "b": 2}, {"b": 2, "a": 1})])
    assert not holds([({"a": 1}, {"a": 2})])
    assert not holds([({"a": 1}, {"a": 1, "b": 2})])
    assert not holds([([1, 2], [1])])
    assert holds(same=[({"a": value}, {"a": value})])
    assert holds(same=[(OrderedDict(a=value), {"a": value})])
    assert not holds(same=[({"a": value}, {"a": value.clone()})])
    assert not holds(same=[({"a": value}, {"b": value})])
    assert not holds(same=[({"a": value, "b": None}, {"b": None, "a": value})])
    assert holds(empty=[{}, [], OrderedDict()])
    assert not holds(empty=[{}, {1: 1}])
    assert holds(flags=[(value, False), (nn.Parameter(value), True)])
    assert not holds(flags=[(value, True)])
    assert not holds(flags=[(value.as_subclass(Other), True)])
    assert holds(items=[({"a": value}, "a", value), (value, "ndim", 1), (str, "join", str.join)])
    assert not holds(items=[({"a": value}, "a", value.clone())])
    assert not holds(items=[({"a": value}, "b", value)])
    assert not holds(items=[(value, "ndim", 2)])
    assert not holds(items=[(value, "nothing", 2)])


def test_a_snapshot_sees_what_happens_later() -> None:
    live: dict[str, Any] = {"a": 1, "b": [1]}
    snapshot = _C.Snapshot([(live, dict(live))], [(live, dict(live))], [], [], [])
    assert snapshot.holds()
    live["c"] = 2
    assert not snapshot.holds()
    del live["c"]
    assert snapshot.holds()
    live["a"] = live.pop("a")  # equal, but in another order
    assert not snapshot.holds()


def test_comparisons_that_fail_pass_through() -> None:
    with pytest.raises(ValueError, match="no plain equality"):
        holds([({"a": Unequal()}, {"a": Unequal()})])
    with pytest.raises(AttributeError, match="requires_grad"):
        holds(flags=[(1, True)])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"equal": [1]}, "expected a pair, got int"),
        ({"equal": [(1,)]}, "expected a pair, got tuple"),
        ({"same": [([], [])]}, "expected a dict and a plain copy of it"),
        ({"same": [({}, OrderedDict())]}, "expected a dict and a plain copy of it"),
        ({"flags": [(1, 2, 3)]}, "expected a pair, got tuple"),
    ],
)
def test_bad_snapshots_are_errors(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        holds(**arguments)


def test_snapshots_are_made_of_lists() -> None:
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        _C.Snapshot([], [], None, [], [])  # type: ignore[arg-type]


# --- plans ----------------------------------------------------------------------------------------

SETTINGS = PlanSettings("meta_step", False, 2, 2, 1, False, False)._asdict() | {"most_bytes": 0}


def plan_of(settings: Any) -> _C.Plan:
    specs = [_C.TensorSpec("weight", [3, 2], True, True)]
    nodes = [_C.NodeSpec("linear", [0], [0, -1], {}, [3], "layer")]
    loss = _C.NodeSpec("mse", [], [], {}, [], "mse")
    return _C.Plan(_C.NetworkSpec([2], specs, nodes, 1, loss), settings)


def test_plans_take_their_settings_by_name() -> None:
    assert plan_of(SETTINGS).output_shape() == [3]
    assert plan_of(dict(reversed(SETTINGS.items()))).output_shape() == [3]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_a_plan_must_be_there(name: str) -> None:
    given = {key: value for key, value in SETTINGS.items() if key != name}
    with pytest.raises(TypeError, match=f"expected all settings of a plan, got none for {name}$"):
        plan_of(given)


@pytest.mark.parametrize("name", ["rows", "Mode", "", 1, None, "\udc80"])
def test_unknown_settings_of_a_plan_are_errors(name: Any) -> None:
    text = f"expected no settings of a plan but {KNOWN}, got {name!r}"
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        plan_of({**SETTINGS, name: 1})


KNOWN = (
    "mode, float64, support_rows, query_rows, inner_steps, first_order, rate_grad, recompute, "
    "factored, winograd, device, moment_bytes, run_pixels, most_bytes, tf32"
)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"first_order": 1}, "expected True or False for the setting first_order, got int"),
        ({"float64": None}, "expected True or False for the setting float64, got NoneType"),
        ({"inner_steps": True}, "expected an integer for the setting inner_steps, got bool"),
        ({"inner_steps": 1.0}, "expected an integer for the setting inner_steps, got float"),
        (
            {"inner_steps": 2**31},
            "expected an integer of 32 bits for the setting inner_steps, got a larger one",
        ),
        (
            {"support_rows": -(2**63) - 1},
            "expected an integer of 64 bits for the setting support_rows, got a larger one",
        ),
        (
            {"mode": "step"},
            'expected "meta_step", "evaluate", "curve" or "adapt" for the setting mode, got str',
        ),
        (
            {"mode": 1},
            'expected "meta_step", "evaluate", "curve" or "adapt" for the setting mode, got int',
        ),
    ],
)
def test_settings_of_another_kind_are_errors(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        plan_of({**SETTINGS, **changed})


def test_settings_are_a_dict() -> None:
    with pytest.raises(TypeError, match="incompatible constructor arguments"):
        plan_of([*SETTINGS.items()])
