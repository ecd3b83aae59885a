"""Networks whose tensors are adapted, trained, both or neither, and double backward over them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from tolerances import assert_close
from torch import Tensor, nn
from torch.func import functional_call

from fastmaml import losses, tasks
from fastmaml.engine.binding import CompiledPlan, PlanSettings
from fastmaml.engine.core import engine_in_use
from fastmaml.engine.plan_settings import Purpose
from fastmaml.tracing.network import Network
from fastmaml.tracing.trace import trace

T, S, Q = 3, 4, 5
RATE = 0.07
BOTH, ADAPTED, TRAINED, FROZEN = (True, True), (True, False), (False, True), (False, False)


class Joined(nn.Module):
    """Two branches that meet by a sum and a concatenation; one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(3, 5)
        self.norm, self.square = nn.BatchNorm1d(5), nn.Linear(5, 5)
        self.scale = nn.LayerNorm(10)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        left = torch.tanh(self.square(self.norm(self.left(x))))
        right = torch.sigmoid(self.square(self.right(x)))
        return self.head(self.scale(torch.cat([left + right, right], 1)))


def stem() -> nn.Module:
    """A pooled first block, which the planner folds, and others of every image op."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5, bias=False), nn.Softplus(),
        nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (3,)),
    "joined": (Joined, (3,)),
    "stem": (stem, (2, 9, 8)),
}


class Case(NamedTuple):
    """A network with roles, and one call's settings."""

    model: nn.Module
    network: Network
    settings: dict[str, Any]
    data: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def case(name: str, roles: Callable[[str], tuple[bool, bool]], **settings: Any) -> Case:
    torch.manual_seed(len(name))
    make, row = MODELS[name]
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():  # norms, too, are not what they start as
            parameter += 0.3 * torch.randn_like(parameter)
    traced = trace(model, row, rows=(S, Q))
    tensors = []
    for spec in traced.tensors:
        adapted, trained = roles(spec.name) if spec.trained else FROZEN
        tensors.append(spec._replace(adapted=adapted, trained=trained))
    chosen = {"inner_steps": 2, "first_order": False, "rate_grad": False, "recompute": False}
    data = tuple(
        (torch.randn(T, rows, *row).double(), torch.rand(T, rows, 2).double()) for rows in (S, Q)
    )
    return Case(model, traced._replace(tensors=tuple(tensors)), {**chosen, **settings}, data)


def plan(it: Case, purpose: Purpose) -> CompiledPlan:
    settings = PlanSettings(
        mode=purpose,
        float64=True,
        support_rows=S,
        query_rows=Q,
        device=engine_in_use().on_device(torch.device("cpu")),
        **it.settings,
    )
    return CompiledPlan(it.network, losses.resolve("mse"), settings)


def fused(it: Case, purpose: Purpose = "meta_step") -> Any:
    device = torch.device("cpu")
    checked = tasks.validate(
        "test", *it.data, dtype=torch.float64, device=device, loss=losses.resolve("mse")
    )
    named = {**dict(it.model.named_parameters()), **dict(it.model.named_buffers())}
    theta = [named[spec.name].detach() for spec in it.network.tensors]
    return plan(it, purpose).run(checked, theta, RATE)


def definition(it: Case) -> tuple[Tensor, dict[str, Tensor], Tensor, dict[str, list[Tensor]]]:
    """Task losses, meta-gradients of the trained, of the rate, and fast weights of the adapted."""
    named = {n: p.detach().clone().requires_grad_() for n, p in it.model.named_parameters()}
    adapted = [t.name for t in it.network.tensors if t.adapted]
    trained = [t.name for t in it.network.tensors if t.trained]
    alpha = torch.tensor(RATE, dtype=torch.float64, requires_grad=True)
    found, fast = [], {name: [] for name in adapted}
    loss_of = nn.functional.mse_loss
    for task in range(T):
        (x, y), (query_x, query_y) = [(x[task], y[task]) for x, y in it.data]
        phi = dict(named)
        for _ in range(it.settings["inner_steps"]):
            loss = loss_of(functional_call(it.model, phi, (x,)), y)
            grads = torch.autograd.grad(
                loss, [phi[n] for n in adapted], create_graph=True, materialize_grads=True
            )
            for name, g in zip(adapted, grads, strict=True):
                phi[name] = phi[name] - alpha * (g.detach() if it.settings["first_order"] else g)
        for name in adapted:
            fast[name].append(phi[name].detach())
        found.append(loss_of(functional_call(it.model, phi, (query_x,)), query_y))
    losses_found = torch.stack(found)
    *grads, rate = torch.autograd.grad(
        losses_found.mean(), [*(named[n] for n in trained), alpha], materialize_grads=True
    )
    return losses_found.detach(), dict(zip(trained, grads, strict=True)), rate, fast


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def agrees(it: Case) -> None:
    ours, (task_losses, grads, rate, _) = fused(it), definition(it)
    assert_close(ours.task_losses, task_losses, "meta_f64")
    # Together: that of a bias in front of a batch norm is 0, and rounding is all there is of it.
    assert [g.shape for g in ours.tensors] == [g.shape for g in grads.values()]
    if grads:
        assert_close(flat(ours.tensors), flat(grads.values()), "meta_f64")
    if it.settings["rate_grad"]:
        assert_close(-ours.rate_dots.sum(), rate, "meta_f64")


def split(name: str, body: tuple[bool, bool], head: tuple[bool, bool]) -> Callable[[str], Any]:
    """The last layer's parameters have one role, all others another."""
    last = [n for n, _ in MODELS[name][0]().named_parameters()][-2:]
    return lambda parameter: head if parameter in last else body


def drawn(seed: int) -> Case:
    """Any roles, but that the output moves."""
    draw = random.Random(seed)
    name = draw.choice(list(MODELS))
    steps = draw.choice([0, 1, 2, 3])
    kinds = draw.choice([[BOTH, TRAINED], [BOTH, ADAPTED, TRAINED, FROZEN], [ADAPTED, TRAINED]])
    given = {n: draw.choice(kinds) for n, _ in MODELS[name][0]().named_parameters()}
    given[list(given)[draw.choice([-2, -1])]] = draw.choice([BOTH, ADAPTED])
    first_order = steps == 0 or draw.random() < 0.2
    return case(
        name,
        given.__getitem__,
        inner_steps=steps,
        first_order=first_order,
        rate_grad=steps > 0 and draw.random() < 0.3,
        recompute=not first_order and draw.random() < 0.4,
        factored=draw.choice([-1, 0, 1]),
        winograd=draw.choice([-1, 0, 5]),
        moment_bytes=draw.choice([-1, 0]),
    )
