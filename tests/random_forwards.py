"""Random Python forwards, and what they mean: an independent loop over tasks in float64.

A forward is a list of statements on an activation ``h`` of six features. The loop is written from
the paper alone: it puts fast weights into a deep copy of the model, task after task.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PLACE", "change", "make", "meta_gradient"]

WIDTH, CLASSES = 6, 3
PLACE: dict[str, Any] = {}  # the globals of the forwards, made anew for each

HEAD = """
class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        return torch.tanh(h)
    @staticmethod
    def backward(ctx, bar):
        return 2 * bar

def helper(h):
    return torch.tanh(h) if SWITCH else F.silu(h)

def forward(self, x):
    h = self.first(x)
"""

STATEMENTS = [
    "h = {f}(h)",
    "h = h + {f}(h)",
    "h = {f}(self.middle(h))",
    "h = self.norm(h)",
    "h = F.batch_norm(h, None, None, training=True)",
    "h = self.batch(h)",
    "h = torch.tanh(h) if isinstance(h, torch.Tensor) else torch.relu(h)",
    "h = torch.tanh(h) if type(h) is torch.Tensor else torch.relu(h)",
    "h = torch.tanh(h) if hasattr(h, 'softmax') and h.dim() == 2 else torch.relu(h)",
    "h = torch.tanh(h) if torch.is_grad_enabled() else torch.relu(h)",
    "h = torch.tanh(h) if h.requires_grad else torch.relu(h)",
    "h = torch.tanh(h) if self.training else F.silu(h)",
    "h = torch.tanh(h) if self.config['a']['b'] > 0 else F.silu(h)",
    "h = torch.tanh(h) if self.args.turns[0] else F.silu(h)",
    "h = helper(h)",
    "for layer in self.layers: h = torch.tanh(layer(h))",
    "for f in [torch.tanh, F.silu]: h = f(h)",
    "h = getattr(self, 'middle')(h)",
    "h = torch.tanh(h) if h.shape[0] > {n} else F.silu(h)",
    "h = torch.tanh(h) if h.sum() > 0 else F.silu(h)",
    "h = torch.tanh(h) if float(self.slope) > 0 else F.silu(h)",
    "h = F.leaky_relu(h, float(self.slope))",
    "h = h * self.slope",
    "h = h.view(h.shape[0], 2, -1).flatten(1)",
    "h = torch.cat([h, {f}(h)], 1)[:, :6]",
    "h = h.clone().add_(h)",
    "g = h.clone(); g.tanh_(); h = h + g",
    "g = h + h; v = g.view(h.shape[0], 3, 2); v.relu_(); h = g + h",
    "g = h + h; k = g; g += h; h = k + g",
    "h = Scaled.apply(h)",
    "h = h + h.detach()",
    "h = F.dropout(h, 0.0, self.training)",
    "self.count += 1; h = torch.tanh(h) if self.count % 2 else F.silu(h)",
    "self.args.turns.append(1); h = torch.tanh(h) if len(self.args.turns) > 9 else F.silu(h)",
    "self.kept = h; h = torch.tanh(h)",
    "h = torch.tanh(h) if self.kept is None else F.silu(h)",
    "with torch.no_grad(): g = torch.tanh(h)\n    h = h + g",
    "torch.set_grad_enabled(False); g = {f}(h); torch.set_grad_enabled(True); h = h + g",
    "try: h = F.normalize(h, dim=1)\n    except Exception: h = torch.relu(h)",
    "try: h = h.softmax(1) * 3\n    except: h = torch.relu(h)",
    "try: raise ValueError(1)\n    except ValueError: h = torch.tanh(h)",
]
FUNCTIONS = ["torch.tanh", "F.silu", "torch.sigmoid", "F.gelu", "F.softplus", "F.elu"]


class Settings:
    """A plain object that a forward reads."""

    def __init__(self) -> None:
        self.turns = [1]


def make(seed: int) -> nn.Module:
    """A model with a random forward; its source is its attribute ``source``."""
    draw = random.Random(seed)
    chosen = [draw.choice(STATEMENTS) for _ in range(draw.randint(1, 4))]
    body = [s.format(f=draw.choice(FUNCTIONS), n=draw.randint(1, 6)) for s in chosen]
    source = HEAD + "".join(f"    {s}\n" for s in body) + "    return self.last(h)\n"
    PLACE.clear()
    PLACE.update(torch=torch, F=F, SWITCH=draw.random() < 0.5, __name__="random_forward")
    exec(source, PLACE)
    torch.manual_seed(seed)
    model: Any = type("Random", (nn.Module,), {"forward": PLACE["forward"]})()
    model.first, model.middle = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)
    model.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)])
    model.norm, model.batch = nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH)
    model.last = nn.Linear(WIDTH, CLASSES)
    if draw.random() < 0.3:
        model.layers[1] = model.middle
    if draw.random() < 0.3:
        model.layers[0].weight = model.middle.weight
    model.register_buffer("slope", torch.tensor(0.3))
    model.config, model.args = {"a": {"b": draw.choice([0, 1])}}, Settings()
    model.count, model.kept = 0, None
    model.train(draw.random() < 0.7)
    if draw.random() < 0.2:
        model.middle.requires_grad_(False)
    return model.double()  # type: ignore[no-any-return]


def change(model: Any, seed: int) -> None:
    """Something that its owner may do between calls."""
    draw = random.Random(seed)
    how = draw.randrange(7)
    if how == 0:
        model.train(not model.training)
    elif how == 1:
        model.config["a"]["b"] = 1 - model.config["a"]["b"]
    elif how == 2:
        model.args.turns[0] = 1 - model.args.turns[0]
    elif how == 3:
        PLACE["SWITCH"] = not PLACE["SWITCH"]
    elif how == 4:
        model.slope.fill_(-0.3)
    elif how == 5:
        model.last.bias.requires_grad_(not model.last.bias.requires_grad)
    else:
        model.count, model.kept = 1, torch.ones(1)


def meta_gradient(
    model: nn.Module, support: Any, query: Any, rate: float, steps: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Task losses and the gradient of their mean, by name; what nothing depends on is absent."""
    twin = copy.deepcopy(model)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    places: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names}
    first = {id(p): name for name, p in twin.named_parameters()}
    for module in twin.modules():
        for own, p in module._parameters.items():
            if p is not None and first[id(p)] in places:
                places[first[id(p)]].append((module, own))
    buffers = {name: b.clone() for name, b in twin.named_buffers()}
    theta = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    theta = {n: theta[n] for n in names}

    def loss(phi: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        for name, tensor in phi.items():
            for module, own in places[name]:
                module._parameters[own] = tensor  # type: ignore[assignment]
        with torch.no_grad():
            for name, b in twin.named_buffers():
                b.copy_(buffers[name])
        return F.cross_entropy(twin(x.clone()), y)

    losses = []
    for x, y, x_query, y_query in zip(*support, *query, strict=True):
        phi = dict(theta)
        for _ in range(steps):
            inner = loss(phi, x, y)
            grads = torch.autograd.grad(
                inner, list(phi.values()), create_graph=True, allow_unused=True
            )
            phi = {
                name: p if g is None else p - rate * g
                for (name, p), g in zip(phi.items(), grads, strict=True)
            }
        losses.append(loss(phi, x_query, y_query))
    mean = torch.stack(losses).mean()
    total = torch.autograd.grad(mean, list(theta.values()), allow_unused=True)
    return torch.stack(losses).detach(), {
        name: g for name, g in zip(theta, total, strict=True) if g is not None
    }
