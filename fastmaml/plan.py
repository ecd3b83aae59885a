"""Cached plans: one trace per model and row shape, one program per settings.

A model is an ordinary module that its owner may change between calls: switch to eval mode, freeze
a parameter, replace a layer, add a hook. `lookup` compares the module tree with what it was when it
was traced, by identity and equality of attributes, one level into lists, dicts and sets, in about a
microsecond per module; any difference drops the trace and its plans. What lies deeper (a field of
an object that a module holds, a class whose forward is replaced) is not watched.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from copy import copy
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from . import _device, _engine
from ._engine import CompiledPlan, Purpose, first_bad_class
from .errors import DeviceError, DtypeError, ShapeError, UnsupportedModelError
from .functional import model_kind
from .graph import Network, trace
from .kept import Recent, WeakCopy, holds_itself, program_bytes
from .losses import Loss
from .memory import Fit, Memory, fit
from .settings import Settings
from .tasks import Tasks, check_classes, check_targets
from .threads import get_num_threads

__all__ = ["ModelPlans", "lookup"]

_KEPT = 64  # traces of a model, calls' fits of a trace
_MOST_BYTES = 256 << 20  # of all programs, as estimated
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TORCHS = frozenset(vars(nn.Module()))  # the attributes that every module has
_GLOBAL_HOOKS = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_backward_hooks,
    nn.modules.module._global_backward_pre_hooks,
)


class _Snapshot(NamedTuple):
    """One module as it was: its attribute dicts beside copies of them.

    Tensors have no equality, so that parameters and buffers are compared by name and identity; the
    copy of `attributes` keeps them alive, and with them their identities.
    """

    live: dict[str, Any]
    attributes: dict[str, Any]
    tensors: tuple[dict[str, Any], ...]  # _parameters and _buffers
    names: tuple[tuple[str, ...], ...]
    identities: tuple[tuple[int, ...], ...]
    kept: tuple[Any, ...]
    children: dict[str, Any]
    hooks: tuple[dict[Any, Any], ...]
    containers: tuple[tuple[Any, Any], ...]  # the module's own lists, dicts and sets beside copies


def _snapshot(module: nn.Module) -> _Snapshot:
    live = vars(module)
    tensors = live["_parameters"], live["_buffers"]
    return _Snapshot(
        live,
        dict(live),
        tensors,
        tuple(tuple(held) for held in tensors),
        tuple(tuple(map(id, held.values())) for held in tensors),
        tuple(tuple(held.values()) for held in tensors),
        dict(live["_modules"]),
        tuple(live[name] for name in _HOOKS),
        tuple(
            (value, copy(value))
            for name, value in live.items()
            if name not in _TORCHS and isinstance(value, (list, dict, set))
        ),
    )


def _hold(snapshots: list[_Snapshot]) -> bool:
    """Whether all modules are still what they were. Runs before every call: one flat loop."""
    for snapshot in snapshots:
        live, attributes, (parameters, buffers), names, identities, _, children, hooks, own = (
            snapshot
        )
        if live != attributes or live["_modules"] != children or any(hooks):
            return False
        for now, then in own:
            if now != then:
                return False
        if (parameters or names[0]) and (
            tuple(map(id, parameters.values())) != identities[0] or tuple(parameters) != names[0]
        ):
            return False
        if (buffers or names[1]) and (
            tuple(map(id, buffers.values())) != identities[1] or tuple(buffers) != names[1]
        ):
            return False
    return True


class ModelPlans:
    """A model's traces and plans, valid while its snapshot holds."""

    def __init__(self, model: nn.Module) -> None:
        """Remember the model as it is; nothing is traced yet."""
        self._snapshots = [_snapshot(module) for module in model.modules()]
        self.networks = Recent[tuple[int, ...], _Traced | str](_KEPT)
        self._requires_grad = [(p, p.requires_grad) for p in model.parameters()]
        self._first = next((p for p, flag in self._requires_grad if flag), None)

    def holds(self) -> bool:
        """Whether the model is still the one that was traced."""
        try:
            if any(_GLOBAL_HOOKS) or not _hold(self._snapshots):
                return False
        except (RuntimeError, ValueError, TypeError):  # attributes without a plain equality
            return False
        for parameter, flag in self._requires_grad:
            if parameter.requires_grad is not flag:
                return False
        return True

    def kind(self, where: str, model: nn.Module) -> tuple[torch.dtype, torch.device]:
        """Dtype and device of the model's parameters; errors as `model_kind`."""
        first = self._first
        return model_kind(where, model) if first is None else (first.dtype, first.device)

    def traced(self, model: nn.Module, row_shape: tuple[int, ...], where: str) -> _Traced:
        """The model's network for rows of this shape.

        Raises:
            UnsupportedModelError: The text names the layer that cannot be taken.
            ShapeError: A layer cannot take the shape that reaches it.
        """
        found = self.networks[row_shape]
        if found is None:
            try:
                found = _Traced(model, trace(model, row_shape, where))
            except UnsupportedModelError as error:
                # Hooks are refused while they are there; these plans may outlive them.
                if not self.holds():
                    raise
                # The text alone: the exception's frames hold the model, which must be able to go.
                found = str(error)
            self.networks[row_shape] = found
        if isinstance(found, str):
            raise UnsupportedModelError(found)
        return found


class _WeakPlans(ModelPlans):
    """Those of a model that holds itself within, which they must not keep alive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._snapshots = []
        self._copy = WeakCopy(model)

    def holds(self) -> bool:
        try:
            return super().holds() and self._copy.holds()
        except (RuntimeError, ValueError, TypeError):
            return False


class _Traced:
    """A network, where its tensors live, and the plans made from it."""

    def __init__(self, model: nn.Module, network: Network) -> None:
        self.network = network
        self._places: list[tuple[dict[str, Any], str]] = []
        for spec in network.tensors:
            path, _, name = spec.name.rpartition(".")
            module = model.get_submodule(path)
            place = module._parameters if name in module._parameters else module._buffers
            self._places.append((place, name))
        self._shapes = [torch.Size(spec.shape) for spec in network.tensors]
        self.trainable = [i for i, spec in enumerate(network.tensors) if spec.trainable]
        self.trainable_names = [network.tensors[i].name for i in self.trainable]
        self.plans: dict[Hashable, CompiledPlan] = {}
        self._fits = Recent[Hashable, Fit](_KEPT)

    def tensors(self, where: str) -> list[Tensor]:
        """The network's live tensors, in its order.

        Raises:
            DtypeError: They are not all of one supported dtype.
            DeviceError: They do not all lie on one device.
            ShapeError: One was given another shape than it was traced with.
        """
        live: list[Tensor] = [place[name] for place, name in self._places]
        dtype, device = live[0].dtype, live[0].device
        if dtype is not torch.float32 and dtype is not torch.float64:
            raise DtypeError(
                f"{where}: model parameters must be torch.float32 or torch.float64, got {dtype}; "
                "call model.float()."
            )
        for tensor, shape, spec in zip(live, self._shapes, self.network.tensors, strict=True):
            if tensor.dtype is not dtype:
                raise DtypeError(
                    f"{where}: all of the model must be {dtype} like "
                    f"`{self.network.tensors[0].name}`, got {tensor.dtype} for `{spec.name}`; "
                    "call model.float() or model.double()."
                )
            if tensor.device != device:
                raise DeviceError(
                    f"{where}: all of the model must be on {device} like "
                    f"`{self.network.tensors[0].name}`, got {tensor.device} for `{spec.name}`; "
                    f'call model.to("{device}").'
                )
            if tensor.shape != shape:
                raise ShapeError(
                    f"{where}: `{spec.name}` must be {list(shape)} as its layer says, "
                    f"got {list(tensor.shape)}."
                )
        return live

    def plan(
        self,
        tasks: Tasks,
        settings: Settings,
        memory: Memory,
        *,
        purpose: Purpose,
        dtype: torch.dtype,
        rate_grad: bool,
        where: str,
    ) -> Fit:
        """The program for this call's shapes and settings; data are checked against the output.

        Raises:
            ShapeError: Targets that do not fit the model's output, or too few rows for a layer.
            SettingError: A class index out of range, or a workspace beyond the limit.
            UnsupportedModelError: The engine cannot take the network.
        """
        loss, steps = settings.loss, settings.inner_steps
        sweeps = purpose == "meta_step" and steps > 0
        first_order = settings.first_order or not sweeps
        rate_grad = rate_grad and steps > 0
        device = tasks.support_x.device
        forced = (
            _engine.FACTORED,
            _engine.WINOGRAD,
            _device.on_device(device),
            _engine.RUN_PIXELS,
            _engine.MOMENT_BYTES,
        )
        threads = get_num_threads()
        key = (
            (loss.op, loss.attrs, steps, first_order, rate_grad, settings.precision),
            (tasks.support_rows, tasks.query_rows, dtype, purpose, forced),
        )
        wanted = (key, tasks.tasks, threads, memory, device, _device.DEVICE_CODE)
        found = self._fits[wanted]
        if found is None:

            def compiled(recompute: bool) -> CompiledPlan:
                return self._compiled((key, recompute), tasks, loss, where)

            sweeps = rate_grad or not first_order
            found = fit(where, compiled, tasks.tasks, threads, memory, device, sweeps=sweeps)
            self._fits[wanted] = found
        found.plan.used = _misses
        self._check_targets(tasks, settings, found.plan.output_shape, where)
        return found

    def _compiled(self, key: Any, tasks: Tasks, loss: Loss, where: str) -> CompiledPlan:
        """The program of a key of `plan`, made once."""
        plan = self.plans.get(key)
        if plan is None:
            (_, _, *sweep, precision), (*_, dtype, purpose, forced) = key[0]
            steps, first_order, rate_grad = sweep
            size = program_bytes(
                self.network,
                purpose=purpose,
                inner_steps=steps,
                first_order=first_order,
                recompute=key[1],
            )
            _make_room(size, self)
            try:
                plan = CompiledPlan(
                    self.network,
                    loss,
                    purpose=purpose,
                    dtype=dtype,
                    support_rows=tasks.support_rows,
                    query_rows=tasks.query_rows,
                    inner_steps=steps,
                    first_order=first_order,
                    rate_grad=rate_grad,
                    recompute=key[1],
                    factored=forced[0],
                    winograd=forced[1],
                    device=forced[2],
                    run_pixels=forced[3],
                    moment_bytes=forced[4],
                    tf32=precision == "tf32",
                )
            except (ShapeError, UnsupportedModelError) as error:
                raise type(error)(f"{where}: {error}") from error
            plan.bytes, plan.used = size, _misses
            self.plans[key] = plan
        return plan

    def drop(self, key: Hashable) -> None:
        """Forget a plan, and what was to run with it."""
        plan = self.plans.pop(key, None)
        for wanted, found in self._fits.everything():
            if found is not None and found.plan is plan:
                self._fits.drop(wanted)

    @staticmethod
    def _check_targets(
        tasks: Tasks, settings: Settings, output: tuple[int, ...], where: str
    ) -> None:
        """The part of the door that needs the output's shape, on the data's fast path."""
        for y in (tasks.support_y, tasks.query_y):
            if settings.loss.classifies:
                # Class indices on a device are not looked at: that would wait for it. A bad one
                # makes the task's loss NaN.
                good = len(output) == 1 and (y.is_cuda or first_bad_class(y, output[0]) < 0)
            else:
                good = y.shape[2:] == output
            if not good:
                check_targets(where, tasks, output)
                check_classes(where, tasks, output[0])


_CACHE: WeakKeyDictionary[nn.Module, ModelPlans] = WeakKeyDictionary()
_LOCK = threading.RLock()  # of what threads add to the cache, and of the next two
_misses = 0  # programs made so far: the clock that says when a plan was used
_unseen = 0  # bytes of those made since all were last looked at


def _make_room(size: int, wanted_by: _Traced) -> None:
    """Drop the plans used longest ago, of all models, where one of so many bytes has no room.

    They are looked at when an eighth of the bound has been added, and dropped to an eighth below.
    """
    global _misses, _unseen
    with _LOCK:
        _misses += 1
        _unseen += size
        if _unseen <= _MOST_BYTES // 8:
            return
        _unseen = size
        held = [
            (plan, key, traced, row_shape, plans)
            for plans in _CACHE.values()
            for row_shape, traced in plans.networks.everything()
            if isinstance(traced, _Traced)
            for key, plan in list(traced.plans.items())
        ]
        total = size + sum(item[0].bytes for item in held)
        for plan, key, traced, row_shape, plans in sorted(held, key=lambda item: item[0].used):
            if total <= _MOST_BYTES - _MOST_BYTES // 8:
                break
            traced.drop(key)
            if not traced.plans and traced is not wanted_by:
                plans.networks.drop(row_shape)
            total -= plan.bytes


def lookup(model: nn.Module) -> ModelPlans:
    """The plans of a model as it is now."""
    plans = _CACHE.get(model)
    if plans is None or not plans.holds():
        plans = _WeakPlans(model) if holds_itself(model) else ModelPlans(model)
        with _LOCK:
            _CACHE[model] = plans
    return plans
