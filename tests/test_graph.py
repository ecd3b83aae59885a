"""Tracing: every torch form of every op.

The oracle is the model itself: the traced network is interpreted in plain torch and must give
what the model gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interpreter import Model, check
from op_cases import FUNCTION_FORMS, MEANINGS, METHOD_FORMS, MODULE_FORMS
from op_cases_image import IMAGE, IMAGE_FUNCTIONS, IMAGE_METHODS, IMAGE_MODULES
from op_cases_norms import NORM_FUNCTIONS, NORM_MODULES
from torch import Tensor, nn

from fastmaml.tracing.ops import FUNCTIONS, METHODS, function_name
from fastmaml.tracing.trace import trace

MODULES_OF_IMAGES = IMAGE_MODULES | NORM_MODULES
FUNCTIONS_OF_IMAGES = IMAGE_FUNCTIONS | NORM_FUNCTIONS
EYE = torch.eye(3, dtype=torch.float64)
STATS = nn.BatchNorm1d(3).double()


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


@pytest.mark.parametrize("kind", MODULES_OF_IMAGES)
def test_module_forms_over_images(kind: type[nn.Module]) -> None:
    for make in MODULES_OF_IMAGES[kind]:
        module = make()
        assert type(module) is kind
        check(nn.Sequential(nn.Linear(4, 4), module), IMAGE)


@pytest.mark.parametrize("target", FUNCTIONS_OF_IMAGES, ids=function_name)
def test_function_forms_over_images(target: Any) -> None:
    for form in FUNCTIONS_OF_IMAGES[target]:
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
    functions = FUNCTION_FORMS.keys() | FUNCTIONS_OF_IMAGES.keys() | {F.linear, F.batch_norm}
    assert functions == FUNCTIONS.keys()
    methods = METHOD_FORMS.keys() | IMAGE_METHODS.keys()
    assert {getattr(Tensor, name) for name in methods} == METHODS.keys()


def test_every_op_is_interpreted() -> None:
    met = set()
    for forms in MODULE_FORMS.values():
        for make in forms:
            met |= {node.op for node in trace(nn.Sequential(nn.Linear(3, 3), make()), (3,)).nodes}
    for forms in MODULES_OF_IMAGES.values():
        for make in forms:
            met |= {node.op for node in trace(make(), IMAGE).nodes}
    assert met | {"add", "concat"} == MEANINGS.keys()
