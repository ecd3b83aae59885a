"""Tracing: everything that must stop a trace, by its text, and that nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from forced import Thread
from torch import Tensor, nn

from fastmaml.errors import ShapeError, UnsupportedModelError
from fastmaml.tracing.trace import layer_name, trace


def refused(model: Any, text: str, row_shape: tuple[int, ...] = (3,)) -> None:
    with pytest.raises(UnsupportedModelError, match=f"^{re.escape(text)}$"):
        trace(model, row_shape)


class Block(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def inside(function: Callable[[Any], Any]) -> nn.Module:
    return nn.ModuleDict({"block": Block(function)})["block"]


BLOCK = f"model ({__name__}.Block)"

FUNCTIONS_REFUSED: list[tuple[Callable[[Any], Any], str]] = [
    (lambda x: torch.softmax(x, -1), f"torch.softmax in {BLOCK}"),
    (lambda x: F.softmax(x, -1), f"torch.nn.functional.softmax in {BLOCK}"),
    (lambda x: x.sum(1), f"torch.Tensor.sum in {BLOCK}"),
    (lambda x: x * x, f"torch.Tensor.mul in {BLOCK}"),
    (lambda x: -x, f"torch.Tensor.neg in {BLOCK}"),
    (lambda x: 1 + x, f"{BLOCK}, which applies add to something other than activations"),
    (lambda x: x[:, 0], f"torch.Tensor.__getitem__ in {BLOCK}"),
    (lambda x: x.exp_(), f"torch.Tensor.exp_ in {BLOCK}"),
    (lambda x: x + 1, f"{BLOCK}, which applies add to something other than activations"),
    (
        lambda x: torch.add(x, x, alpha=2),
        f"{BLOCK}, which adds with alpha=2",
    ),
    (
        lambda x: x + x.unsqueeze(1),
        f"{BLOCK}, which adds rows of shapes [3] and [1, 3]",
    ),
    (
        lambda x: F.dropout(x),
        f"{BLOCK}, which drops at random in training mode",
    ),
    (lambda x: x.flatten(), f"{BLOCK}, which changes the dimension of the rows"),
    (lambda x: x.unsqueeze(0), f"{BLOCK}, which changes the dimension of the rows"),
    (lambda x: x.squeeze(), f"{BLOCK}, which squeezes without naming one dimension"),
    (lambda x: x.view(5, 3), f"{BLOCK}, which reshapes other than row by row"),
    (lambda x: x.view(-1), f"{BLOCK}, which reshapes rows of shape [3] to []"),
    (lambda x: x.view(-1, 1), f"{BLOCK}, which reshapes rows of shape [3] to [1]"),
    (lambda x: x.view(x.size(0), -1, -1), f"{BLOCK}, which reshapes other than row by row"),
    (lambda x: x.view(3, -1), f"{BLOCK}, which reshapes other than row by row"),
    (lambda x: x.view(x.size(0), 2, -1), f"{BLOCK}, which reshapes rows of shape [3] to [2, 1]"),
    (lambda x: (x, x), f"{BLOCK}, which returns tuple instead of one tensor"),
    (lambda x: None, f"{BLOCK}, which returns NoneType instead of one tensor"),
]


@pytest.mark.parametrize(("function", "text"), FUNCTIONS_REFUSED)
def test_functions_refused(function: Callable[[Any], Any], text: str) -> None:
    refused(inside(function), text)


def test_views_of_overwritten_tensors() -> None:
    def form(x: Tensor) -> Tensor:
        view = x.flatten(1)
        x.relu_()
        return view

    refused(
        inside(form),
        f"{BLOCK}, which uses a view of a tensor that an in-place operation has changed",
        (4, 3),
    )


def test_layers_refused() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.attn(x, x, x)[0]
            return result

    refused(Attends(), "layer `attn` (torch.nn.MultiheadAttention)", (4,))
    deep = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.Softmax(-1)))
    refused(deep, "layer `1.1` (torch.nn.Softmax)")
    refused(nn.Softmax(-1), "model (torch.nn.Softmax)")
    refused(
        nn.Sequential(nn.Linear(3, 3), Block(lambda x: x.sum(0))),
        f"torch.Tensor.sum in layer `1` ({__name__}.Block)",
    )
    refused(
        nn.Sequential(nn.Dropout()),
        "layer `0` (torch.nn.Dropout), which drops at random in training mode",
    )
    refused(nn.BatchNorm1d(4), "model (torch.nn.BatchNorm1d) on rows of shape [4, 2]", (4, 2))
    refused(lambda x: x, "function, which is not a torch.nn.Module")


def test_hooks() -> None:
    def hook(*args: Any) -> None:
        return None

    for register, text in [
        ("register_forward_hook", "forward hooks"),
        ("register_forward_pre_hook", "forward hooks"),
        ("register_full_backward_hook", "backward hooks"),
        ("register_full_backward_pre_hook", "backward hooks"),
    ]:
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        handle = getattr(model[1], register)(hook)
        refused(model, f"layer `1` (torch.nn.ReLU) with {text}")
        handle.remove()
        trace(model, (3,))


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ],
)
def test_global_hooks(register: Callable[..., Any]) -> None:
    handle = register(lambda *args: None)
    try:
        refused(nn.Linear(3, 3), "model (torch.nn.Linear) under global module hooks")
    finally:
        handle.remove()


def test_altered_layers() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    refused(
        model,
        "model (torch.nn.utils.parametrize.ParametrizedLinear) with parametrizations",
    )
    layer = nn.ReLU()
    layer.forward = torch.tanh  # type: ignore[method-assign]
    assert [node.op for node in trace(nn.Sequential(layer), (3,)).nodes] == ["tanh"]
    pruned = nn.Linear(3, 3)
    nn.utils.prune.l1_unstructured(pruned, "weight", 1)
    refused(pruned, "model (torch.nn.Linear) with forward hooks")


class Counts(nn.Module):
    """Changes itself while it runs, in one of many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.calls = 0
        self.log: list[int] = []
        self.table = {"seen": 1000}
        self.register_buffer("total", torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        if self.how == "number":
            self.calls += 1
        elif self.how == "list":
            self.log.append(1)
        elif self.how == "dict":
            self.table["seen"] += 1
        elif self.how == "new":
            self.last = y
        elif self.how == "buffer":
            self.total = self.total + 1
        elif self.how == "buffer in place":
            self.total += 1
        elif self.how == "buffer method":
            self.total.add_(1)
        elif self.how == "parameter":
            self.weight.data.clamp_(0, 1)
        elif self.how == "torch random":
            torch.rand(3)
        return y


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("number", "model ({}.Counts), whose forward changes `Counts.calls`"),
        ("list", "model ({}.Counts), whose forward changes `Counts.log`"),
        ("dict", "model ({}.Counts), whose forward changes `Counts.table`"),
        ("new", "model ({}.Counts), whose forward changes `Counts.last`"),
        ("buffer", "torch.Tensor.add of `total` in model ({}.Counts)"),
        ("buffer in place", "torch.Tensor.add_ of `total` in model ({}.Counts)"),
        ("buffer method", "torch.Tensor.add_ of `total` in model ({}.Counts)"),
        ("parameter", "torch.Tensor.data of `weight` in model ({}.Counts)"),
        ("torch random", "torch.rand in model ({}.Counts)"),
    ],
)
def test_models_that_change_themselves(how: str, text: str) -> None:
    model = Counts(how)
    model.get_buffer("total").fill_(2.0)
    torch_state = torch.get_rng_state()
    before = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    refused(model, text.format(__name__))
    assert {key: value for key, value in vars(model).items() if not key.startswith("_")} == before
    assert (model.calls, model.log, model.table) == (0, [], {"seen": 1000})
    assert model.get_buffer("total").tolist() == [2.0, 2.0, 2.0]
    assert model.weight.tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(torch_state, torch.get_rng_state())
    assert not hasattr(model, "last")


def test_data_dependent_models() -> None:
    def form(x: Any) -> Any:
        return x if x.sum() > 0 else -x

    refused(inside(form), f"torch.Tensor.sum in {BLOCK}")

    with pytest.raises(UnsupportedModelError, match=r"Block\): name 'x' is strange"):
        trace(inside(raises), (3,))


def test_models_that_count_their_rows() -> None:
    """They are traced for the numbers of rows that they will get."""

    def compare(x: Tensor) -> Tensor:
        return torch.tanh(x) if x.shape[0] > 3 else torch.relu(x)

    for rows, op in (((1, 2), "relu"), ((4, 9), "tanh")):
        assert [node.op for node in trace(inside(compare), (3,), rows=rows).nodes] == [op]
    with pytest.raises(UnsupportedModelError, match="whose forward depends on the number of rows"):
        trace(inside(compare), (3,), rows=(3, 4))
    fixed = inside(lambda x: torch.tanh(x).view(4, -1))
    assert trace(fixed, (3,), rows=(4,)).nodes
    with pytest.raises(UnsupportedModelError, match="which reshapes other than row by row"):
        trace(fixed, (3,), rows=(4, 5))
    text = f"{BLOCK}, which returns list instead of one tensor"
    refused(inside(lambda x: [x for _ in range(len(x))]), text)


def raises(x: Tensor) -> Tensor:
    raise RuntimeError("name 'x' is strange\nand more")


def test_constants_refused() -> None:
    weight = torch.ones(3, 3)
    refused(
        inside(lambda x: F.linear(x, weight)),
        f"{BLOCK}, which uses a tensor that is neither its parameter nor its buffer",
    )

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight

    refused(
        Constant(),
        f"model ({Constant.__module__}.{Constant.__qualname__}), whose output does not depend on "
        "its input",
    )


def test_misfits() -> None:
    def misfit(model: nn.Module, row_shape: tuple[int, ...], text: str) -> None:
        with pytest.raises(ShapeError, match=f"^{re.escape(text)}$"):
            trace(model, row_shape, "meta_step")

    misfit(
        nn.Sequential(nn.Linear(10, 4)),
        (20,),
        "meta_step: layer `0` (torch.nn.Linear) must get rows of shape [..., 10], got [20]; "
        "change the layer or the data.",
    )
    misfit(
        nn.Linear(10, 4),
        (),
        "meta_step: model (torch.nn.Linear) must get rows of shape [..., 10], got []; "
        "change the layer or the data.",
    )
    misfit(
        nn.BatchNorm1d(5),
        (6,),
        "meta_step: model (torch.nn.BatchNorm1d) must get rows of shape [5], got [6]; "
        "change the layer or the data.",
    )


def test_names() -> None:
    assert layer_name("a.b", nn.Linear(1, 1)) == "layer `a.b` (torch.nn.Linear)"
    assert layer_name("", nn.Linear(1, 1)) == "model (torch.nn.Linear)"
    assert layer_name("", Block(lambda x: x)) == BLOCK


def test_nothing_is_left_behind() -> None:
    """Not a mode, hook, gradient or buffer."""
    model = nn.Sequential(nn.BatchNorm1d(3), Block(lambda x: x.view(len(x), -1)), nn.Tanh().eval())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (3,))
    refused(inside(lambda x: x.exp()), f"torch.Tensor.exp in {BLOCK}")
    assert not torch.overrides._get_current_function_mode_stack()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)
    assert [module.training for module in model] == [True, True, False]
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert len(model(torch.zeros(2, 3))) == 2


def test_other_threads_run_models_meanwhile() -> None:
    """Only the tracing thread may notice a trace."""
    traced = nn.Sequential(nn.Linear(3, 3), Block(lambda x: x.view(len(x), -1)), nn.Tanh())
    other = nn.Sequential(nn.Linear(3, 3), Block(lambda x: x[: len(x)]), nn.Softmax(-1))
    x = torch.ones(4, 3)
    failures: list[BaseException] = []

    def work(call: Callable[[], object]) -> None:
        try:
            for _ in range(50):
                call()
        except BaseException as error:
            failures.append(error)

    calls = [lambda: other(x), lambda: trace(traced, (3,)), lambda: trace(traced, (3,))]
    threads = [Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
