"""Tracing: whole models, sharing, freezing, and in-place operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from interpreter import Model, check
from torch import Tensor, fx, nn

from fastmaml.tracing.trace import Network, trace


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
    assert [(spec.name, spec.trained) for spec in network.tensors] == [
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
    assert [(spec.name, spec.trained) for spec in network.tensors][2:] == [
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
    assert network == Network((3,), (), (), 0, knows_rows=False)


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
