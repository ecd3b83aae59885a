"""Tracing: every torch form of every op, and everything that must stop a trace.

The oracle is the model itself: the traced network is interpreted in plain torch and must give
what the model gives.
"""

from __future__ import annotations

import operator
import random
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, fx, nn

from fastmaml.errors import ShapeError, UnsupportedModelError
from fastmaml.graph import Network, Node, check_rows, layer_name, trace
from fastmaml.graph_ops import FUNCTIONS, METHODS, MODULES, function_name

ROWS = 5


def linear(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    weight, bias = p
    assert weight is not None
    return x[0] @ weight.mT if bias is None else x[0] @ weight.mT + bias


def batch_norm(node: Node, x: list[Tensor], p: list[Tensor | None]) -> Tensor:
    weight, bias, mean, var = p
    if node.attrs["batch_stats"]:
        assert mean is None
        assert var is None
        mean, var = x[0].mean(0), x[0].var(0, unbiased=False)
    assert mean is not None
    assert var is not None
    y = (x[0] - mean) / (var + node.attrs["eps"]).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


INTERPRETER: dict[str, Callable[[Node, list[Tensor], list[Tensor | None]], Tensor]] = {
    "linear": linear,
    "batch_norm": batch_norm,
    "relu": lambda n, x, p: x[0].clamp_min(0),
    "leaky_relu": lambda n, x, p: F.leaky_relu(x[0], n.attrs["negative_slope"]),
    "elu": lambda n, x, p: F.elu(x[0], n.attrs["alpha"]),
    "gelu": lambda n, x, p: F.gelu(x[0], approximate="tanh" if n.attrs["tanh"] else "none"),
    "silu": lambda n, x, p: x[0] * torch.sigmoid(x[0]),
    "softplus": lambda n, x, p: F.softplus(x[0], n.attrs["beta"], n.attrs["threshold"]),
    "tanh": lambda n, x, p: torch.tanh(x[0]),
    "sigmoid": lambda n, x, p: torch.sigmoid(x[0]),
    "reshape": lambda n, x, p: x[0].reshape(len(x[0]), *n.shape),
    "add": lambda n, x, p: x[0] + x[1],
}


def interpret(network: Network, model: nn.Module, x: Tensor) -> Tensor:
    """Run a network in plain torch."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for spec in network.tensors:
        assert tensors[spec.name].shape == spec.shape
        assert spec.trainable == tensors[spec.name].requires_grad
    values = [x]
    for node in network.nodes:
        params = [None if i < 0 else tensors[network.tensors[i].name] for i in node.params]
        inputs = [values[i] for i in node.inputs]
        values.append(INTERPRETER[node.op](node, inputs, params))
        assert values[-1].shape == (len(x), *node.shape)
    return values[network.output]


class Model(nn.Module):
    """Two layers around any function of the features."""

    def __init__(self, function: Any, row: tuple[int, ...] = (4, 3)) -> None:
        super().__init__()
        self.first = nn.Linear(row[-1], row[-1])
        self.function = function
        self.scale = nn.Parameter(torch.rand(row[-1], dtype=torch.float64) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(self.first(x))
        return result


def check(model: nn.Module, row_shape: tuple[int, ...]) -> Network:
    """Trace, compare with the model, and give the network."""
    model.double()
    x = torch.randn(ROWS, *row_shape, dtype=torch.float64)
    network = trace(model, row_shape)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        truth = model(x.clone())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    assert_close(interpret(network, model, x), truth, "op_f64")
    return network


def wide(x: Tensor) -> Tensor:
    return 40 * x  # reaches the linear part of softplus


MODULE_FORMS: dict[type[nn.Module], list[Callable[[], nn.Module]]] = {
    nn.Linear: [lambda: nn.Linear(3, 2), lambda: nn.Linear(3, 2, bias=False)],
    nn.BatchNorm1d: [
        lambda: nn.BatchNorm1d(3, eps=1e-3),
        lambda: nn.BatchNorm1d(3, affine=False),
        lambda: nn.BatchNorm1d(3, track_running_stats=False),
        lambda: nn.BatchNorm1d(3, track_running_stats=False).eval(),
        lambda: nn.BatchNorm1d(3).eval(),
        lambda: nn.BatchNorm1d(3, affine=False).eval(),
    ],
    nn.ReLU: [nn.ReLU, lambda: nn.ReLU(inplace=True)],
    nn.LeakyReLU: [nn.LeakyReLU, lambda: nn.LeakyReLU(0.3, inplace=True)],
    nn.ELU: [nn.ELU, lambda: nn.ELU(0.7, inplace=True)],
    nn.GELU: [nn.GELU, lambda: nn.GELU("tanh")],
    nn.SiLU: [nn.SiLU, lambda: nn.SiLU(inplace=True)],
    nn.Softplus: [nn.Softplus, lambda: nn.Softplus(2.0, 0.5)],
    nn.Tanh: [nn.Tanh],
    nn.Sigmoid: [nn.Sigmoid],
    nn.Flatten: [nn.Flatten, lambda: nn.Flatten(-1), lambda: nn.Flatten(1, 1)],
    nn.Unflatten: [lambda: nn.Unflatten(1, (3, 1)), lambda: nn.Unflatten(-1, (1, -1))],
    nn.Identity: [nn.Identity],
    nn.Dropout: [lambda: nn.Dropout(0.0), lambda: nn.Dropout(0.5).eval()],
    nn.Dropout1d: [lambda: nn.Dropout1d(0.5).eval()],
    nn.Dropout2d: [lambda: nn.Dropout2d(0.5).eval()],
    nn.Dropout3d: [lambda: nn.Dropout3d(0.5).eval()],
    nn.AlphaDropout: [lambda: nn.AlphaDropout(0.5).eval()],
}

EYE = torch.eye(3, dtype=torch.float64)
STATS = nn.BatchNorm1d(3).double()

FUNCTION_FORMS: dict[Any, list[Callable[[Tensor], Tensor]]] = {
    F.relu: [F.relu, lambda x: F.relu(x, inplace=True), lambda x: F.relu(input=x)],
    F.leaky_relu: [F.leaky_relu, lambda x: F.leaky_relu(x, 0.2, True)],
    F.leaky_relu_: [lambda x: F.leaky_relu_(x, 0.2)],
    F.elu: [F.elu, lambda x: F.elu(x, alpha=0.5)],
    F.elu_: [F.elu_],
    F.gelu: [F.gelu, lambda x: F.gelu(x, approximate="tanh")],
    F.silu: [F.silu, lambda x: F.silu(x, inplace=True)],
    F.softplus: [
        F.softplus,
        lambda x: F.softplus(x, beta=2, threshold=1),
        lambda x: F.softplus(x + x, 3, 0.1),
    ],
    F.tanh: [F.tanh],
    F.sigmoid: [F.sigmoid],
    F.dropout: [lambda x: F.dropout(x, 0.5, False), lambda x: F.dropout(x, p=0.0)],
    F.alpha_dropout: [lambda x: F.alpha_dropout(x, 0.5)],
    torch.relu: [torch.relu],
    torch.relu_: [torch.relu_],
    torch.tanh: [torch.tanh],
    torch.tanh_: [torch.tanh_],
    torch.sigmoid: [torch.sigmoid],
    torch.sigmoid_: [torch.sigmoid_],
    torch.special.expit: [torch.special.expit],
    torch.dropout: [lambda x: torch.dropout(x, 0.5, False)],
    torch.add: [lambda x: torch.add(x, x), lambda x: torch.add(x, x, alpha=1)],
    operator.add: [lambda x: x + x, lambda x: operator.add(x, torch.tanh(x))],
    operator.iadd: [lambda x: operator.iadd(x, x)],
    torch.reshape: [lambda x: torch.reshape(x, (-1, 12)), lambda x: torch.reshape(x, (-1, 3, 4))],
    torch.flatten: [lambda x: torch.flatten(x, 1), lambda x: torch.flatten(x, start_dim=-2)],
    torch.unflatten: [
        lambda x: torch.unflatten(x, 1, (2, 2)),
        lambda x: torch.unflatten(x, 2, [3]),
    ],
    torch.squeeze: [lambda x: torch.squeeze(x, 1), lambda x: torch.squeeze(x.unsqueeze(1), 1)],
    torch.unsqueeze: [lambda x: torch.unsqueeze(x, 1), lambda x: torch.unsqueeze(x, -1)],
}

METHOD_FORMS: dict[str, list[Callable[[Any], Tensor]]] = {
    "relu": [lambda x: x.relu()],
    "relu_": [lambda x: x.relu_()],
    "tanh": [lambda x: x.tanh()],
    "tanh_": [lambda x: x.tanh_()],
    "sigmoid": [lambda x: x.sigmoid()],
    "sigmoid_": [lambda x: x.sigmoid_()],
    "add": [lambda x: x.add(x), lambda x: x.add(x, alpha=1)],
    "add_": [lambda x: x.add_(x)],
    "view": [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.shape[0], 12),
        lambda x: x.view(len(x), -1, 6),
        lambda x: x.view(-1, x.shape[1] * x.shape[2]),
        lambda x: x.view((x.size()[0], 2, 6)),
        lambda x: x.view(x.shape),
        lambda x: x.view(size=(x.shape[0], 12)),
    ],
    "reshape": [
        lambda x: x.reshape(x.size(dim=0), -1),
        lambda x: x.reshape(-1, 12),
        lambda x: x.reshape([len(x), 12]),
    ],
    "flatten": [lambda x: x.flatten(1), lambda x: x.flatten(start_dim=1, end_dim=x.dim() - 1)],
    "unflatten": [lambda x: x.unflatten(1, (2, 2))],
    "squeeze": [lambda x: x.squeeze(1)],
    "unsqueeze": [lambda x: x.unsqueeze(2) if x.ndim == 3 else x],
    "contiguous": [lambda x: x.contiguous()],
}


@pytest.mark.parametrize("kind", MODULES)
def test_module_forms(kind: type[nn.Module]) -> None:
    for make in MODULE_FORMS[kind]:
        module = make()
        assert type(module) is kind
        for name, buffer in module.named_buffers():
            if name.startswith("running"):
                buffer.uniform_(0.5, 2.0)
        check(nn.Sequential(nn.Linear(3, 3), module), (3,))


@pytest.mark.parametrize("form", MODULE_FORMS[nn.Softplus] + MODULE_FORMS[nn.GELU])
def test_a_module_alone(form: Callable[[], nn.Module]) -> None:
    check(form(), (3,))


@pytest.mark.parametrize("target", FUNCTIONS, ids=function_name)
def test_function_forms(target: Any) -> None:
    forms = {F.linear: LINEAR_FORMS, F.batch_norm: BATCH_NORM_FORMS}.get(target)
    for form in forms or FUNCTION_FORMS[target]:
        model = form() if forms else Model(form)
        network = check(model, (3,) if forms else (4, 3))
        # A form must have met its own table entry: F.tanh and F.sigmoid are methods underneath.
        assert network.nodes


@pytest.mark.parametrize("target", METHODS)
def test_method_forms(target: str) -> None:
    for form in METHOD_FORMS[target]:
        check(Model(form), (4, 3))


class OwnLinear(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))
        self.bias = nn.Parameter(torch.randn(2)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, bias=self.bias)


class OwnNorm(nn.Module):
    def __init__(self, training: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.batch_statistics = training
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("var", torch.rand(3) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_statistics:
            return F.batch_norm(x, None, None, self.weight, training=True, eps=0.1)
        return F.batch_norm(x, self.mean, self.var, self.weight)  # type: ignore[arg-type]


class InheritedLinear(nn.Linear):
    """A subclass is traced through its forward, whatever that has become."""


LINEAR_FORMS = [lambda: OwnLinear(True), lambda: OwnLinear(False), lambda: InheritedLinear(3, 2)]
BATCH_NORM_FORMS = [lambda: OwnNorm(True), lambda: OwnNorm(False)]


def test_every_table_entry_has_a_form() -> None:
    assert MODULE_FORMS.keys() == MODULES.keys()
    assert FUNCTION_FORMS.keys() | {F.linear, F.batch_norm} == FUNCTIONS.keys()
    assert METHOD_FORMS.keys() == METHODS.keys()


def test_every_op_is_interpreted() -> None:
    met = set()
    for forms in MODULE_FORMS.values():
        for make in forms:
            met |= {node.op for node in trace(nn.Sequential(nn.Linear(3, 3), make()), (3,)).nodes}
    assert met | {"add"} == INTERPRETER.keys()


# Whole models.


class Residual(nn.Module):
    """Shares a layer and a bare parameter, adds in three ways, has dead code and a default."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(12, 6)
        self.norm = nn.BatchNorm1d(6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)
        self.drop = nn.Dropout(0.5).eval()
        self.unused = nn.Linear(6, 6)

    def forward(self, x: Tensor, skip: Tensor | None = None, gain: float = 1.0) -> Tensor:
        assert x.dim() == 3
        assert x.shape[1:] == (3, 4)
        h = self.norm(self.stem(x.view(len(x), -1)))
        same = h
        h += self.mix(torch.relu(h))
        self.unused(h)
        if skip is None:
            h = self.drop(h) + F.linear(F.gelu(same), self.mix.weight)
        if gain != 1.0:
            raise AssertionError
        result: Tensor = self.head(h.add(self.mix(h)))
        return result


def test_residual_model() -> None:
    network = check(Residual(), (3, 4))
    names = [spec.name for spec in network.tensors]
    assert sorted(set(names)) == sorted(names), "a shared parameter appears once"
    assert not any(name.startswith("unused") for name in names)
    assert [node.op for node in network.nodes].count("linear") == 5
    assert network.row_shape == (3, 4)
    assert network.nodes[0].name == "view"
    assert network.nodes[1].name == "stem"


def test_nested_names_and_frozen_parameters() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 1))
    model[1].bias.requires_grad_(False)
    network = check(model, (2,))
    assert [(spec.name, spec.trainable) for spec in network.tensors] == [
        ("0.0.weight", True),
        ("0.0.bias", True),
        ("1.weight", True),
        ("1.bias", False),
    ]
    assert [node.name for node in network.nodes] == ["0.0", "0.1", "1"]


def test_running_statistics_are_tensors_only_where_they_are_used() -> None:
    norm = nn.BatchNorm1d(2, eps=0.25)
    (node,) = trace(norm, (2,)).nodes
    assert node.params == (0, 1, -1, -1)
    assert node.attrs == {"eps": 0.25, "batch_stats": 1.0}
    network = trace(norm.eval(), (2,))
    assert network.nodes[0].params == (0, 1, 2, 3)
    assert network.nodes[0].attrs == {"eps": 0.25, "batch_stats": 0.0}
    assert [(spec.name, spec.trainable) for spec in network.tensors][2:] == [
        ("running_mean", False),
        ("running_var", False),
    ]


def test_tied_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    network = check(model, (3,))
    assert [spec.name for spec in network.tensors] == ["0.weight", "0.bias", "2.bias"]
    assert network.nodes[2].params == (0, 2)


def test_identity_model() -> None:
    network = check(nn.Identity(), (3,))
    assert network == Network((3,), (), (), 0)


def test_rows_without_dimensions() -> None:
    network = check(nn.Sequential(nn.Unflatten(-1, (1,)), nn.Linear(1, 1), nn.Tanh()), (1,))
    assert network.nodes[0].op == "linear"

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.fc(x.unsqueeze(-1)).squeeze(-1)
            return result

    assert check(Scalar(), ()).nodes[-1].shape == ()


def test_a_traced_model_can_be_traced() -> None:
    check(fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten())), (3,))


def test_parameters_in_containers() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(3, 3), torch.randn(2, 3)])
            self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Tanh()])
            self.named = nn.ModuleDict({"last": nn.Linear(3, 3)})

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            x = self.named["last"](x)
            for weight in self.weights:
                x = F.linear(x, weight)
            return x

    network = check(Listed(), (3,))
    assert network.tensors[-1].name == "weights.1"


# In-place operations: the value changes under every name of it, and views of it are refused.


def overwrites(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    alias = y
    y += x
    y.relu_()
    return alias + y


def overwrites_and_forgets(x: Tensor) -> Tensor:
    F.relu(x, inplace=True)
    torch.tanh_(x)
    return x


def overwrites_through_a_layer(x: Tensor) -> Tensor:
    y = torch.tanh(x)
    nn.functional.leaky_relu(y, 0.5, inplace=True)
    return y


@pytest.mark.parametrize("form", [overwrites, overwrites_and_forgets, overwrites_through_a_layer])
def test_in_place(form: Callable[[Tensor], Tensor]) -> None:
    check(Model(form), (4, 3))


class InPlaceLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        z = self.relu(y)
        result: Tensor = y + z
        return result


def test_in_place_layers_change_what_they_are_given() -> None:
    check(InPlaceLayer(), (3,))


def test_views_of_overwritten_tensors() -> None:
    def form(x: Tensor) -> Tensor:
        view = x.flatten(1)
        x.relu_()
        return view

    refused(
        Model(form),
        f"model ({__name__}.Model), which uses a view of a tensor that an in-place operation has "
        "changed",
        (4, 3),
    )


# Refusals.


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
    (lambda x: x.mean(1), f"torch.Tensor.mean in {BLOCK}"),
    (lambda x: x * x, f"operator.mul in {BLOCK}"),
    (lambda x: -x, f"operator.neg in {BLOCK}"),
    (lambda x: 1 + x, f"operator.add in {BLOCK}"),
    (lambda x: x[:, 0], f"operator.getitem in {BLOCK}"),
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
        nn.Sequential(nn.Linear(3, 3), Block(lambda x: x.mean(0))),
        f"torch.Tensor.mean in layer `1` ({__name__}.Block)",
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
    layer.forward = lambda input: input  # type: ignore[method-assign]
    refused(nn.Sequential(layer), "layer `0` (torch.nn.ReLU) with a replaced forward")
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
        elif self.how == "python random":
            random.random()
        return y


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("number", "model ({}.Counts), whose forward changes `Counts.calls`"),
        ("list", "model ({}.Counts), whose forward changes `Counts.log`"),
        ("dict", "model ({}.Counts), whose forward changes `Counts.table`"),
        ("new", "model ({}.Counts), whose forward changes `Counts.last`"),
        (
            "buffer",
            "model ({}.Counts), which applies add to something other than activations",
        ),
        (
            "buffer in place",
            "model ({}.Counts), which applies iadd to something other than activations",
        ),
        ("buffer method", "torch.Tensor.add_ in model ({}.Counts)"),
        ("parameter", "builtins.getattr in model ({}.Counts)"),
        ("torch random", "model ({}.Counts), whose forward draws random numbers"),
        ("python random", "model ({}.Counts), whose forward draws random numbers"),
    ],
)
def test_models_that_change_themselves(how: str, text: str) -> None:
    model = Counts(how)
    model.get_buffer("total").fill_(2.0)
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    before = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    refused(model, text.format(__name__))
    assert {key: value for key, value in vars(model).items() if not key.startswith("_")} == before
    assert (model.calls, model.log, model.table) == (0, [], {"seen": 1000})
    assert model.get_buffer("total").tolist() == [2.0, 2.0, 2.0]
    assert model.weight.tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(torch_state, torch.get_rng_state())
    assert python_state == random.getstate()
    assert not hasattr(model, "last")


def test_data_dependent_models() -> None:
    def form(x: Any) -> Any:
        return x if x.sum() > 0 else -x

    refused(inside(form), f"torch.Tensor.sum in {BLOCK}")

    def compare(x: Any) -> Any:
        return x if x.shape[0] > 1 else -x

    with pytest.raises(UnsupportedModelError, match=r"Block\): '>' not supported"):
        trace(inside(compare), (3,))
    with pytest.raises(UnsupportedModelError, match=r"Block\): 'Rows' object"):
        trace(inside(lambda x: [x for _ in range(len(x))][0]), (3,))
    with pytest.raises(UnsupportedModelError, match=r"Block\): name 'x' is strange"):
        trace(inside(raises), (3,))


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


def test_too_few_rows_for_batch_statistics() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network = trace(model, (2,))
    check_rows("meta_step", network, 2)
    with pytest.raises(
        ShapeError,
        match=re.escape(
            "meta_step: layer `1` must get at least 2 rows per task for batch statistics, got 1; "
            "add rows or call .eval() on the layer."
        ),
    ):
        check_rows("meta_step", network, 1)
    check_rows("meta_step", trace(model.eval(), (2,)), 1)


def test_names() -> None:
    assert layer_name("a.b", nn.Linear(1, 1)) == "layer `a.b` (torch.nn.Linear)"
    assert layer_name("", nn.Linear(1, 1)) == "model (torch.nn.Linear)"
    assert layer_name("", Block(lambda x: x)) == BLOCK


def test_nothing_is_left_behind() -> None:
    """Not the patched ``len``, not torch.fx's patches, not a mode, hook, gradient or buffer."""
    model = Residual()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (3, 4))
    refused(Model(lambda x: x.exp()), f"torch.Tensor.exp in model ({__name__}.Model)", (4, 3))
    assert "len" not in globals()
    assert "len" not in vars(nn.modules.linear)
    assert nn.Module.__call__.__name__ == "_wrapped_call_impl"
    assert model.training
    assert not model.drop.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert len(model(torch.zeros(2, 3, 4))) == 2


def test_other_threads_run_models_meanwhile() -> None:
    """torch.fx patches nn.Module for all threads; ours must be the only one that notices."""
    model, other = Residual(), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Softmax(-1))
    x = torch.ones(4, 3)
    failures: list[BaseException] = []
    done = threading.Event()

    def work(call: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                call()
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(call,))
        for call in (lambda: other(x), lambda: trace(Residual(), (3, 4)), lambda: other(x))
    ]
    for thread in threads:
        thread.start()
    for _ in range(30):
        trace(model, (3, 4))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert nn.Module.__call__.__name__ == "_wrapped_call_impl"
