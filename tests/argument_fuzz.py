"""Random arguments of the public calls, and what a call may do with them.

A case is one call: good arguments, of which one to three are then made bad. It may return, or
raise an exception of `fastmaml.errors` in a sentence; whatever the caller's own code raises goes
through. A call that raised has changed nothing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from argument_judge import changed, fault_of, state
from binding_fuzz import BindingCase
from hostile_tensors import OBJECTS, TENSORS, CallersError, hostile
from tolerances import relative_error, within
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

import fastmaml

T, S, Q = 2, 3, 4


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Tied(nn.Module):
    """Two layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.b(torch.tanh(self.a(x)))))  # type: ignore[no-any-return]


class Returns(nn.Module):
    """A forward that gives something else."""

    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.f, self.what = nn.Linear(4, 3), what

    def forward(self, x: Tensor) -> Any:
        return self.what(self.f(x))


def _fault(*_: Any) -> Any:
    raise CallersError("from the caller's code")


MODELS: list[Callable[[], Any]] = [
    *[_mlp] * 6,
    Tied,
    lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
    lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)),
    lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval(),
    lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(27, 3),
    ),
    lambda: nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 3)),
    lambda: nn.DataParallel(_mlp()),
    lambda: nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3)),
    lambda: _mlp().half(),
    lambda: _mlp().bfloat16(),
    lambda: _mlp().to(torch.complex64),
    lambda: _mlp().to("meta"),
    lambda: _mlp().requires_grad_(False),
    lambda: nn.Sequential(),
    lambda: nn.Identity(),
    lambda: nn.Linear(4, 0),
    lambda: nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(8, 3)),
    *(
        lambda what=what: Returns(what)  # type: ignore[misc]
        for what in (
            lambda y: (y, y), lambda y: {"y": y}, lambda y: None, lambda y: y.sum(),
            lambda y: y.sum(0), lambda y: y.detach(), lambda y: y.double(), lambda y: y.to("meta"),
            lambda y: y.long(), lambda y: y[:, :0], lambda y: y.to_sparse(), lambda y: y * 1j,
            lambda y: y.unsqueeze(-1), lambda y: 3, lambda y: y.tolist(), lambda y: y * 0 / 0,
            lambda y: y.T, _fault,
        )
    ),
]  # fmt: skip
LOSSES: list[Any] = [
    "mse", "cross_entropy", "bce_with_logits", "nope", nn.MSELoss(), nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(weight=torch.ones(3)), nn.CrossEntropyLoss(weight=torch.ones(7)),
    nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(reduction="none"),
    nn.BCEWithLogitsLoss(reduction="sum"), nn.CrossEntropyLoss, F.mse_loss, F.l1_loss, F.nll_loss,
    lambda a, y: a, lambda a, y: None, lambda a, y: 1.0, lambda a, y: y.sum(), lambda a, y: a.sum(),
    lambda a, y: a.sum() * 1j, lambda a, y: a.double().square().mean(), lambda a, y: a.sum().half(),
    lambda a, y: torch.tensor(1.0), lambda a, y: a.sum().to("meta"), lambda a, y: a.sum() * 0 / 0,
    lambda a, y: a.detach().sum(), lambda a, y: (a.sum(), 1), lambda a, y: a.sum().to_sparse(),
    lambda a, y: a.sum() > 0, _fault, nn.Linear(3, 1), nn.NLLLoss(),
]  # fmt: skip


class Look(TorchFunctionMode):
    """A mode that only looks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Case:
    """One call, with its arguments; `run` says what came of it."""

    def __init__(self, seed: int) -> None:
        """Draw it."""
        draw = self.draw = random.Random(seed)
        torch.manual_seed(seed)
        self.model = draw.choice(MODELS)()
        if draw.random() < 0.5:
            self.model.double()
        self.inner = self.model
        dtype = next((p.dtype for p in self.model.parameters()), torch.float32)
        self.classes = draw.random() < 0.7
        x = [torch.randn(T, rows, 4).to(dtype) for rows in (S, Q)]
        y = [torch.randint(3, (T, rows)) for rows in (S, Q)]
        if not self.classes:
            y = [torch.randn(T, rows, 3).to(dtype) for rows in (S, Q)]
        self.pairs: list[Any] = [[x[0], y[0]], [x[1], y[1]]]
        self.how: dict[str, Any] = {"loss": "cross_entropy" if self.classes else "mse"}
        self.name = draw.choice(
            ["meta_step"] * 5 + ["adapt", "predict", "verify", "evaluate", "describe", "meta_loss"]
            + ["workspace_bytes", "reference"]
        )  # fmt: skip
        self.spoilt = False  # the data: what is made of some tensors torch cannot read
        self.around: Any = contextlib.nullcontext()
        self.rows = x[1]
        changes = [self.bad_data] * 6 + [self.bad_setting] * 4 + [self.bad_loss] * 2
        changes += [self.bad_model, self.bad_model, self.bad_place, self.bad_grad, self.bad_pair]
        for _ in range(draw.choice((0, 1, 1, 1, 2, 3))):
            draw.choice(changes)()

    def bad_data(self) -> None:
        """One tensor of a set, or of both sets."""
        if self.spoilt:
            return
        self.spoilt = True
        pair = self.draw.choice(self.pairs)
        if type(pair) is not list or len(pair) != 2:
            return
        if self.name == "predict" and self.draw.random() < 0.5:
            self.rows = hostile(self.draw, self.rows) if isinstance(self.rows, Tensor) else None
            return
        if self.draw.random() < 0.3:
            name, at = self.draw.choice(list(TENSORS)), self.draw.randrange(2)
            for pair in self.pairs:
                with contextlib.suppress(Exception):
                    pair[at] = TENSORS[name](pair[at])
            return
        at = self.draw.randrange(2)
        if isinstance(pair[at], Tensor):
            pair[at] = hostile(self.draw, pair[at])

    def bad_pair(self) -> None:
        """A whole set."""
        at = self.draw.randrange(2)
        pair = self.pairs[at]
        if type(pair) is not list or len(pair) != 2:
            return
        x, y = pair
        self.pairs[at] = self.draw.choice(
            [None, x, (y, x), (x,), (x, y, y), {"x": x, "y": y}, "xy", [(x, y)] * 2, {1, 2},
             (i for i in (x, y)), [[x], [y]], ((x, x), y), tuple, 5, [], (None, None)]
        )  # fmt: skip

    def bad_setting(self) -> None:
        """A setting of any kind."""
        names = ["inner_lr", "inner_lr", "inner_steps", "inner_steps"]
        if self.name == "evaluate":
            names += ["backend", "precision"]
        elif self.name == "reference":
            names += ["first_order"]
        elif self.name == "verify":
            names += ["first_order", "backend"]
        elif self.name in ("adapt", "predict"):
            names += ["backend", "max_workspace_bytes", "precision"]
        else:
            names += ["first_order", "recompute", "max_workspace_bytes", "precision"]
            names += [] if self.name in ("describe", "workspace_bytes") else ["backend"]
        name = self.draw.choice(names)
        if self.draw.random() < 0.3:
            good: dict[str, list[Any]] = {
                "inner_lr": [0.1, 0, -1, 1e-40], "inner_steps": [0, 2, 3], "first_order": [True],
                "backend": ["fused", "reference"], "recompute": [True, False],
                "max_workspace_bytes": [1, 1 << 20], "precision": ["tf32"],
            }  # fmt: skip
            self.how[name] = self.draw.choice(good[name])
            return
        value = self.draw.choice(OBJECTS)()
        if name == "inner_lr" and self.draw.random() < 0.3:
            value = hostile(self.draw, torch.tensor(0.1))
        self.how[name] = value

    def bad_loss(self) -> None:
        """Another loss."""
        self.how["loss"] = self.draw.choice([*LOSSES, self.draw.choice(OBJECTS)()])

    def bad_model(self) -> None:
        """A model that changes after its first call, is wrapped, or is no model."""
        if not isinstance(self.model, nn.Module):
            return
        kind = self.draw.randrange(8)
        if kind == 0:
            self.model = self.draw.choice([None, 5, nn.Linear, lambda x: x, object(), "m", []])
            return
        if kind == 1:
            self.model = nn.DataParallel(self.model)
            return
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fastmaml.meta_step(self.model, *self.pairs, **self.how)
        self.model.zero_grad()
        owners = [
            (module, kind, name)
            for module in self.model.modules()
            for kind in ("_parameters", "_buffers")
            for name, t in getattr(module, kind).items()
            if isinstance(t, Tensor)
        ]
        if not owners:
            return
        module, held, name = self.draw.choice(owners)
        tensor = getattr(module, held)[name]
        with contextlib.suppress(Exception):
            new = hostile(self.draw, tensor.detach())
            keys = torch._C._dispatch_keys
            if kind < 4 and keys(new) == keys(tensor):  # torch itself dies of some others
                tensor.data = new
            elif kind < 6 and held == "_parameters":
                setattr(module, name, nn.Parameter(new))
            elif isinstance(new, Tensor):
                getattr(module, held)[name] = new
            else:
                setattr(module, name, new)

    def bad_grad(self) -> None:
        """A ``.grad`` that is there already."""
        if isinstance(self.model, nn.Module):
            for p in self.model.parameters():
                with contextlib.suppress(Exception):
                    p.grad = hostile(self.draw, torch.zeros_like(p))

    def bad_place(self) -> None:
        """Something that is in force around the call."""
        self.around = self.draw.choice(
            [torch.no_grad, torch.inference_mode, FakeTensorMode, Look,
             lambda: FakeTensorMode(allow_non_fake_inputs=True),
             lambda: torch.autocast("cpu", torch.bfloat16),
             lambda: torch.device("meta"),
             torch.autograd.graph.save_on_cpu,
             torch.autograd.detect_anomaly,
             lambda: "vmap", lambda: "grad", lambda: "jvp"]
        )()  # fmt: skip

    def call(self) -> Any:
        """Make the call."""
        how, (support, query) = self.how, self.pairs
        if self.name == "reference":
            return fastmaml.reference.meta_step(self.model, support, query, **how)
        if self.name == "evaluate":
            how = {"inner_steps": 1} | how
            return fastmaml.evaluate(self.model, [(support, query)], **how)
        if self.name == "adapt":
            return fastmaml.adapt(self.model, support, **how)
        if self.name == "predict":
            return fastmaml.adapt(self.model, support, **how).predict(self.rows)
        return getattr(fastmaml, self.name)(self.model, support, query, **how)

    def within(self) -> Any:
        """Make the call where it is to be made."""
        one, got = torch.ones(1), []

        def at(_: Tensor) -> Tensor:
            got.append(self.call())
            return _.sum()

        if self.around == "vmap":
            torch.vmap(at)(one[None])
        elif self.around == "grad":
            torch.func.grad(at)(one)
        elif self.around == "jvp":
            torch.func.jvp(at, (one,), (one,))
        else:
            with self.around:
                got.append(self.call())
        return got[0]

    def run(self) -> str:
        """What came of it: "returned", the name of the exception, or what is wrong."""
        before = state(self.inner)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.result = self.within()
        except Exception as error:
            wrong = fault_of(error, self.how["loss"])
            del error
            return wrong or changed(before, state(self.inner)) or "raised"
        writes = self.name in ("meta_step", "reference")
        return changed(before, state(self.inner), grads=writes) or self.compare(before)

    def compare(self, before: dict[str, Any]) -> str:
        """A meta-step of the engine beside the reference, in float64 from no gradient at all."""
        result = getattr(self, "result", None)
        if getattr(result, "backend", "") != "fused" or not hasattr(result, "task_losses"):
            return "returned"
        held = [value for name, value in before.items() if name.startswith(".grad ")]
        parameters = list(self.inner.parameters())
        if result.task_losses.dtype is not torch.float64 or any(v is not None for v in held):
            return "returned"
        if getattr(self.how.get("inner_lr"), "grad_fn", None) is not None:
            return "returned"  # its graph is gone
        ours = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            p.grad = None
        how = {
            n: v
            for n, v in self.how.items()
            if n in ("loss", "inner_lr", "inner_steps", "first_order")
        }
        try:
            truth = fastmaml.reference.meta_step(self.model, *self.pairs, **how)
        except Exception as error:  # a buffer that the engine has no use for, and torch fails on
            return fault_of(error, self.how["loss"]) or "returned"
        theirs = [p.grad for p in parameters if p.grad is not None]
        found = torch.cat([result.task_losses, *(g.flatten() for g in ours)])
        right = torch.cat([truth.task_losses, *(g.flatten() for g in theirs)])
        if right.isfinite().all() and not within(found, right):
            return f"differs by {relative_error(found, right):.1e}"
        return "compared"


def main(kind: Any, seeds: range) -> None:
    """Print a seed before its case, and what is wrong after it; last, how many came to what."""
    counted: Counter[str] = Counter()
    for seed in seeds:
        os.write(1, f"{seed}\n".encode())
        faulthandler.dump_traceback_later(60, exit=True)
        try:
            came = kind(seed).run()
        except BaseException as error:
            came = f"the case itself: {error!r}"
        faulthandler.cancel_dump_traceback_later()
        counted[came] += 1
        if came not in ("raised", "returned", "compared"):
            os.write(1, f"{seed} {came!r}\n".encode())
    os.write(1, f"{dict(counted)}\n".encode())
    os._exit(0)  # what torch does with such tensors at exit is its own


if __name__ == "__main__":
    torch.set_num_threads(1)
    fastmaml.set_num_threads(1)
    warnings.simplefilter("ignore")
    main({"calls": Case, "binding": BindingCase}[sys.argv[1]], range(*map(int, sys.argv[2:])))
