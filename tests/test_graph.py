"""Tracing: every torch form of every op.

The oracle is the model itself: the traced network is interpreted in plain torch and must give
what the model gives.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph_image_forms import IMAGE, IMAGE_FUNCTIONS, IMAGE_METHODS, IMAGE_MODULES
from interpreter import INTERPRETER, Model, check
from torch import Tensor, nn

from fastmaml.tracing.ops import FUNCTIONS, METHODS, function_name
from fastmaml.tracing.trace import trace

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
    "add": [
        lambda x: x.add(x),
        lambda x: x.add(x, alpha=1),
        lambda x: x + x,
        lambda x: operator.add(x, torch.tanh(x)),
    ],
    "add_": [lambda x: x.add_(x), lambda x: operator.iadd(x, x)],
    "view": [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.shape[0], 12),
        lambda x: x.view(x.size(0), -1, 6),
        lambda x: x.view(-1, x.shape[1] * x.shape[2]),
        lambda x: x.view((x.size()[0], 2, 6)),
        lambda x: x.view(x.shape),
        lambda x: x.view(size=(x.shape[0], 12)),
    ],
    "reshape": [
        lambda x: x.reshape(x.size(dim=0), -1),
        lambda x: x.reshape(-1, 12),
        lambda x: x.reshape([x.size(0), 12]),
    ],
    "flatten": [lambda x: x.flatten(1), lambda x: x.flatten(start_dim=1, end_dim=x.dim() - 1)],
    "unflatten": [lambda x: x.unflatten(1, (2, 2))],
    "squeeze": [lambda x: x.squeeze(1)],
    "unsqueeze": [lambda x: x.unsqueeze(2) if x.ndim == 3 else x],
    "contiguous": [lambda x: x.contiguous()],
    "clone": [lambda x: x.clone(), lambda x: x + x.clone().relu_()],
    "to": [
        lambda x: x.to(x.device),
        lambda x: x.to(x),
        lambda x: x.to(device=x.device, dtype=x.dtype),
    ],
}


@pytest.mark.parametrize("kind", MODULE_FORMS)
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


@pytest.mark.parametrize("kind", IMAGE_MODULES)
def test_module_forms_over_images(kind: type[nn.Module]) -> None:
    for make in IMAGE_MODULES[kind]:
        module = make()
        assert type(module) is kind
        check(nn.Sequential(nn.Linear(4, 4), module), IMAGE)


@pytest.mark.parametrize("target", IMAGE_FUNCTIONS, ids=function_name)
def test_function_forms_over_images(target: Any) -> None:
    for form in IMAGE_FUNCTIONS[target]:
        own = target in (F.conv2d, torch.conv2d)
        check(nn.Sequential(nn.Linear(4, 4), form()) if own else Model(form, IMAGE), IMAGE)


@pytest.mark.parametrize("target", IMAGE_METHODS)
def test_method_forms_over_images(target: str) -> None:
    for form in IMAGE_METHODS[target]:
        check(Model(form, IMAGE), IMAGE)


@pytest.mark.parametrize("target", [*FUNCTION_FORMS, F.linear, F.batch_norm], ids=function_name)
def test_function_forms(target: Any) -> None:
    forms = {F.linear: LINEAR_FORMS, F.batch_norm: BATCH_NORM_FORMS}.get(target)
    for form in forms or FUNCTION_FORMS[target]:
        model = form() if forms else Model(form)
        network = check(model, (3,) if forms else (4, 3))
        # A form must have met its own table entry: F.tanh and F.sigmoid are methods underneath.
        assert network.nodes


@pytest.mark.parametrize("target", METHOD_FORMS)
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
    functions = FUNCTION_FORMS.keys() | IMAGE_FUNCTIONS.keys() | {F.linear, F.batch_norm}
    assert functions == FUNCTIONS.keys()
    methods = METHOD_FORMS.keys() | IMAGE_METHODS.keys()
    assert {getattr(Tensor, name) for name in methods} == METHODS.keys()


def test_every_op_is_interpreted() -> None:
    met = set()
    for forms in MODULE_FORMS.values():
        for make in forms:
            met |= {node.op for node in trace(nn.Sequential(nn.Linear(3, 3), make()), (3,)).nodes}
    for forms in IMAGE_MODULES.values():
        for make in forms:
            met |= {node.op for node in trace(make(), IMAGE).nodes}
    assert met | {"add", "concat"} == INTERPRETER.keys()
