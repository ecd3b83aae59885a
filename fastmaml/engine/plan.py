"""Cached plans: one trace per model and row shape, one program per settings.

A model is an ordinary module that its owner may change between calls: switch to eval mode, freeze
a parameter, replace a layer, add a hook. `lookup` compares the module tree with what it was when it
was traced, by identity and equality of attributes, in about a tenth of a microsecond per module and
tensor, and what its code reads besides (`fastmaml.tracing.watch`); any difference drops the trace
and its plans.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fastmaml import forks
from fastmaml.definition.functional import model_kind
from fastmaml.engine import binding
from fastmaml.errors import DeviceError, DtypeError, SettingError, ShapeError, UnsupportedModelError
from fastmaml.losses import Loss
from fastmaml.readable import check_readable, check_tensors
from fastmaml.settings import Settings
from fastmaml.statistics import warn_of_initial_statistics
from fastmaml.tasks import Tasks, check_classes, check_targets
from fastmaml.threads import get_num_threads
from fastmaml.tracing.trace import Network, trace
from fastmaml.tracing.watch import Watch

from .binding import CompiledPlan, Purpose
from .compared import Proof
from .core import Engine
from .kept import Recent, WeakCopy, held_bytes, holds_itself
from .memory import Fit, fit, most_program_bytes
from .plan_settings import PlanKey, PlanSettings, Wanted
from .snapshots import snapshot, weak_snapshot

if TYPE_CHECKING:
    from .binding import Snapshot, Theta

__all__ = ["ModelPlans", "Traced", "lookup", "traced_now"]

_KEPT = 64  # traces of a model, calls' fits of a trace


class ModelPlans:
    """A model's traces and plans, valid while its snapshot holds."""

    def __init__(self, model: nn.Module, where: str) -> None:
        """Remember the model as it is; nothing is traced yet. Errors as `check_tensors`."""
        check_tensors(where, model)
        warn_of_initial_statistics(where, model)
        self.watch = Watch(model)
        self._snapshot = self._remember(model)
        self.networks = Recent[Hashable, Traced | str](_KEPT)
        self._first = next((p for p in model.parameters() if p.requires_grad), None)

    def _remember(self, model: nn.Module) -> Snapshot:
        return snapshot(model, self.watch.items)

    def holds(self) -> bool:
        """Whether the model is still the one that was traced."""
        try:
            return self._snapshot.holds() and self.watch.holds()
        except (RuntimeError, ValueError, TypeError):  # attributes without a plain equality
            return False

    def kind(self, where: str, model: nn.Module) -> tuple[torch.dtype, torch.device]:
        """Dtype and device of the model's parameters; errors as `model_kind`."""
        first = self._first
        return model_kind(where, model) if first is None else (first.dtype, first.device)

    def traced(self, model: nn.Module, tasks: Tasks, where: str) -> Traced:
        """The model's network for as many rows of this shape.

        Raises:
            UnsupportedModelError: The text names the layer that cannot be taken.
            ShapeError: A layer cannot take the shape that reaches it.
        """
        key = tasks.row_shape, tasks.support_rows, tasks.query_rows
        found = self.networks[key]
        if found is None:
            try:
                found = self._traced(model, trace(model, key[0], where, key[1:], self.watch))
            except UnsupportedModelError as error:
                # Hooks are refused while they are there; these plans may outlive them.
                if not self.holds():
                    raise
                # The text alone: the exception's frames hold the model, which must be able to go.
                found = str(error)
            self.networks[key] = found
        if isinstance(found, str):
            raise UnsupportedModelError(found)
        return found

    def _traced(self, model: nn.Module, network: Network) -> Traced:
        """The one that there is for the network, as for most numbers of rows, or a new one."""
        for _, held in self.networks.everything():
            if isinstance(held, Traced) and held.network == network:
                return held
        return Traced(model, network)


class _WeakPlans(ModelPlans):
    """Those of a model that holds itself within, which they must not keep alive."""

    def _remember(self, model: nn.Module) -> Snapshot:
        self._copy = WeakCopy(model)
        return weak_snapshot(model, self.watch.items)

    def holds(self) -> bool:
        try:
            return super().holds() and self._copy.holds()
        except (RuntimeError, ValueError, TypeError):
            return False


class Traced:
    """A network, where its tensors live, and the plans made from it."""

    def __init__(self, model: nn.Module, network: Network) -> None:
        """Find the network's tensors in the model; no plan is made yet."""
        self.network = network
        self.bytes, self.counted = held_bytes(network), 0  # of them, in `_make_room`
        self._first = next((n, p) for n, p in model.named_parameters() if p.requires_grad)
        self._live: list[Tensor] = []  # the snapshot holds as long as these are the model's
        for spec in network.tensors:
            path, _, name = spec.name.rpartition(".")
            module = model.get_submodule(path)
            place = module._parameters if name in module._parameters else module._buffers
            self._live.append(place[name])  # type: ignore[arg-type]
        # Views whose memory holds the other sign: a tensor is one from its making on.
        self._negated = any(tensor.is_neg() for tensor in self._live)
        self._shapes = [torch.Size(spec.shape) for spec in network.tensors]
        self.parameters = {
            spec.name: tensor
            for spec, tensor in zip(network.tensors, self._live, strict=True)
            if spec.trained
        }
        self.plans: dict[PlanKey, CompiledPlan] = {}
        self._fits = Recent[tuple[Any, ...], Fit](_KEPT)
        self._proof = Proof()

    def compare(self, model: nn.Module, tasks: Tasks, settings: Settings) -> None:
        """Let no network run that is none of the model's; errors as `Proof.check`."""
        self._proof.check(model, self.network, self._live, tasks, settings)

    def tensors(self, where: str, engine: Engine) -> Theta | None:
        """The network's live tensors, in its order, or contiguous copies.

        None where one was given another shape since the trace, which then is of another network.

        Raises:
            DtypeError: One is of another dtype than the model's first trainable parameter.
            DeviceError: One lies on another device.
            SettingError: One cannot be read.
        """
        if not self._negated:
            found = binding.fitting(self._live, self._shapes, self._first[1], engine.core)
            if found is not None:
                return found
        self._check(where)
        if any(t.shape != shape for t, shape in zip(self._live, self._shapes, strict=True)):
            return None
        return [
            t.detach().resolve_neg().contiguous() if t.is_neg() or not t.is_contiguous() else t
            for t in self._live
        ]

    def _check(self, where: str) -> None:
        """Refuse tensors that the engine cannot read; errors as `tensors`."""
        name, first = self._first
        for tensor, spec in zip(self._live, self.network.tensors, strict=True):
            check_readable(where, f"`{spec.name}`", tensor)
            if tensor.dtype is not first.dtype:
                raise DtypeError(
                    f"{where}: all of the model must be {first.dtype} like `{name}`, got "
                    f"{tensor.dtype} for `{spec.name}`; call model.float() or model.double()."
                )
            if tensor.device != first.device:
                raise DeviceError(
                    f"{where}: all of the model must be on {first.device} like `{name}`, got "
                    f'{tensor.device} for `{spec.name}`; call model.to("{first.device}").'
                )

    def plan(
        self,
        tasks: Tasks,
        settings: Settings,
        *,
        purpose: Purpose,
        dtype: torch.dtype,
        rate_grad: bool,
        where: str,
    ) -> Fit:
        """The program for this call's shapes and settings; data are checked against the output.

        Raises:
            ShapeError: Targets that do not fit the model's output, or too few rows for a layer.
            SettingError: A class index out of range, or memory beyond the limit.
            UnsupportedModelError: The engine cannot take the network.
        """
        loss = settings.loss
        # As `Wanted` names them: a plain tuple is made in a fraction of the time.
        wanted = (
            settings.engine,
            loss.op,
            loss.attrs,
            settings.inner_steps,
            settings.first_order,
            rate_grad,
            settings.precision,
            settings.memory,
            purpose,
            tasks.tasks,
            tasks.support_rows,
            tasks.query_rows,
            dtype,
            tasks.support_x.device,
            get_num_threads(),
        )
        found = self._fits[wanted]
        if found is None:
            found = self._fits[wanted] = self._fit(Wanted(*wanted), loss, where)
            _make_room(found.plan, self, settings.engine.most_plan_bytes)
        found.plan.used = _misses
        self._check_targets(tasks, settings, found.plan.output_shape, where)
        return found

    def _fit(self, wanted: Wanted, loss: Loss, where: str) -> Fit:
        """The plan that a call wants, made if need be; what was written in vain goes."""
        before = set(self.plans.values())
        settings = wanted.settings()
        most = most_program_bytes(wanted.memory, on_device=settings.device)

        def compiled(recompute: bool) -> CompiledPlan:
            made_for = settings._replace(recompute=recompute)
            return self._compiled(wanted.engine, made_for, loss, most, where)

        found = None
        try:
            found = fit(
                where,
                compiled,
                wanted.tasks,
                wanted.threads,
                wanted.memory,
                wanted.device,
                on_device=settings.device,
                sweeps=not settings.first_order,
            )
            return found
        finally:
            for made in set(self.plans.values()) - before:
                if found is None or made is not found.plan:
                    self.drop(made)

    def _compiled(
        self, engine: Engine, settings: PlanSettings, loss: Loss, most_bytes: int, where: str
    ) -> CompiledPlan:
        """The program for these settings, made once."""
        key = (engine, loss.op, loss.attrs, settings)
        plan = self.plans.get(key)
        if plan is None:
            try:
                plan = CompiledPlan(
                    self.network, loss, settings, engine=engine, most_bytes=most_bytes
                )
            except (SettingError, ShapeError, UnsupportedModelError) as error:
                raise type(error)(f"{where}: {error}.") from error
            plan.used = _misses
            self.plans[key] = plan
        return plan

    def held(self) -> set[CompiledPlan]:
        """The plans that are kept."""
        fits = (found.plan for _, found in self._fits.everything() if found is not None)
        return {*list(self.plans.values()), *fits}

    def drop(self, plan: CompiledPlan) -> None:
        """Forget a plan, and what was to run with it."""
        for key, held in list(self.plans.items()):
            if held is plan:
                self.plans.pop(key, None)
        for wanted, found in self._fits.everything():
            if found is not None and found.plan is plan:
                self._fits.drop(wanted)

    @staticmethod
    def _check_targets(
        tasks: Tasks, settings: Settings, output: tuple[int, ...], where: str
    ) -> None:
        """The part of the door that needs the output's shape."""
        if binding.targets_fit(output, tasks, settings.loss.classifies):
            return
        check_targets(where, tasks, output)
        if settings.loss.classifies and not tasks.support_y.is_cuda:
            # On a device they are not looked at, as that would wait for it: a bad one makes the
            # task's loss NaN.
            check_classes(where, tasks, output[0])


_CACHE: WeakKeyDictionary[nn.Module, ModelPlans] = WeakKeyDictionary()
_LOCK = forks.lock()  # of what threads add to the cache, and of the next two
_misses = 0  # kinds of calls so far: the clock that says when a plan was used
_unseen = 0  # bytes added since all were last looked at


def _make_room(wanted: CompiledPlan, by: Traced, most: int) -> None:
    """Drop the plans used longest ago, of all models, where one leaves no room in so many bytes.

    They are looked at when an eighth of the bound has been added, and dropped to an eighth below.
    """
    global _misses, _unseen
    with _LOCK:
        _misses += 1
        wanted.used = _misses
        for grown in (wanted, by):
            _unseen += grown.bytes - grown.counted
            grown.counted = grown.bytes
        if _unseen <= most // 8:
            return
        _unseen = 0
        networks = {
            id(traced): (traced, plans.networks)
            for plans in _CACHE.values()
            for _, traced in plans.networks.everything()
            if isinstance(traced, Traced)
        }
        held = [(plan, *where) for where in networks.values() for plan in where[0].held()]
        total = sum(t.bytes for t, _ in networks.values()) + sum(p.bytes for p, *_ in held)
        for plan, traced, kept in sorted(held, key=lambda item: item[0].used):
            if total <= most - most // 8:
                break
            if plan is wanted:
                continue
            traced.drop(plan)
            total -= plan.bytes
            if not traced.held() and traced is not by:
                total -= traced.bytes
                for shapes in [k for k, other in kept.everything() if other is traced]:
                    kept.drop(shapes)


def traced_now(
    model: nn.Module, plans: ModelPlans, tasks: Tasks, where: str, engine: Engine
) -> tuple[Traced, Theta]:
    """The model's network for these rows and its tensors; errors as of both methods."""
    traced = plans.traced(model, tasks, where)
    theta = traced.tensors(where, engine)
    while theta is None:
        traced = lookup(model, where, anew=True).traced(model, tasks, where)
        theta = traced.tensors(where, engine)
    return traced, theta


def lookup(model: nn.Module, where: str = "lookup", *, anew: bool = False) -> ModelPlans:
    """The plans of a model as it is now.

    Args:
        model: The module.
        where: The call that error texts begin with.
        anew: Whether to forget those that are there.

    Returns:
        Its `ModelPlans`.

    Raises:
        SettingError: The model has tensors that nobody can read.
    """
    plans = _CACHE.get(model)
    if plans is None or anew or not plans.holds():
        plans = (_WeakPlans if holds_itself(model) else ModelPlans)(model, where)
        with _LOCK:
            _CACHE[model] = plans
    return plans
