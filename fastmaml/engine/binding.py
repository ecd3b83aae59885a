"""The only user of the compiled module: plans, pointers and the bytes they point at.

Python owns every byte: outputs are torch tensors, and workspaces are kept for later calls.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from fastmaml.engine import devices
from fastmaml.errors import BackendError
from fastmaml.modes import grad_mode

from .allocate import InstructionTime, Layouts, Outputs, all_empty
from .core import CORE, REASON, Engine, engine_in_use
from .kept import Recent
from .plan_settings import PlanSettings, Purpose
from .workspaces import keep_workspace, release_workspaces, take_workspace

__all__ = [
    "CompiledPlan",
    "Outputs",
    "PlanSettings",
    "Purpose",
    "available",
    "info",
    "peak_flops",
    "require",
]

_CPU = torch.device("cpu")
_KEPT = 64  # numbers of tasks whose layouts and workspace's size a plan remembers
_SIZE_BYTES = 1024  # of what is kept of each, in the core too
_Answer = TypeVar("_Answer")
_Written = tuple[Tensor, Tensor, list[Tensor], Tensor | None]
if TYPE_CHECKING:
    from fastmaml.losses import Loss
    from fastmaml.tasks import Tasks
    from fastmaml.tracing.trace import Network

    Snapshot = CORE.Snapshot
    Theta = list[Tensor] | CORE.Tensors  # a network's tensors, contiguous, in its order


def available() -> bool:
    """Whether the compiled engine could be loaded."""
    return CORE is not None


def require(where: str, device: torch.device | None = None) -> None:
    """Raise unless the engine is there, and can run on the device.

    Args:
        where: The call that error texts begin with.
        device: Of the model's parameters; None asks for the engine alone.

    Raises:
        BackendError: It is not; the text says why and what to do.
    """
    if device is not None and device.type != "cpu":
        absence = CORE.device_absence() if device.type == "cuda" else f"it knows no {device.type}"
        if absence:
            raise BackendError(
                f'{where}: backend "fused" cannot run on {device}: {absence}; call model.cpu(), '
                'or use backend="reference".'
            )
    elif CORE is None:
        raise BackendError(
            f'{where}: backend "fused" needs the compiled engine fastmaml._C, got: {REASON}; '
            'install fastmaml with "pip install .", or use backend="reference".'
        )


def usable_processors() -> int:
    """Processors that the process may keep busy, by its affinity and its control groups' quota."""
    return (os.cpu_count() or 1) if CORE is None else CORE.usable_processors()


def info() -> dict[str, str]:
    """What the engine is and runs on: ``instruction_set`` and ``cuda``."""
    return {
        "instruction_set": "not built" if CORE is None else CORE.instruction_set(),
        "cuda": "not built" if CORE is None else CORE.device_absence() or "ready",
    }


def peak_flops(dtype: torch.dtype, threads: int) -> float:
    """Measure the machine's multiply-add rate, the ceiling of every contraction.

    Args:
        dtype: ``torch.float32`` or ``torch.float64``.
        threads: How many threads run together.

    Returns:
        FLOP/s, a multiply-add counted as two.
    """
    require("peak_flops")
    return CORE.peak_flops(dtype is torch.float64, threads)


class CompiledPlan:
    """One program of the engine and the workspace it runs in.

    Args:
        network: The traced model.
        loss: A loss with an op.
        settings: What it is made for.
        engine: What runs it; None is the one in use.
        most_bytes: Of the program while it is written; 0: any.

    Raises:
        UnsupportedModelError: The engine lacks an op of the network.
        ShapeError: The network's shapes do not fit together.
        SettingError: The program is larger than `most_bytes`.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        settings: PlanSettings,
        *,
        engine: Engine | None = None,
        most_bytes: int = 0,
    ) -> None:
        """Write the program."""
        self.settings = settings
        self.engine = engine = engine_in_use() if engine is None else engine
        self.plan: CORE.Plan = engine.core.Plan(
            _network_spec(engine.core, network, loss),
            {**settings._asdict(), "most_bytes": most_bytes},
        )
        self._cpu: CORE.Place = engine.core.Place(all_threads=engine.all_threads)
        self.dtype = torch.float64 if settings.float64 else torch.float32
        self.output_shape = tuple(self.plan.output_shape())
        self.used = self.counted = 0  # when it was last used, and bytes then: see `plan`
        steps, rate_grad, purpose = settings.inner_steps, settings.rate_grad, settings.mode
        logits = 0 if purpose == "adapt" else settings.query_rows, *self.output_shape
        role = "adapted" if purpose == "adapt" else "trained"
        trained = [tuple(t.shape) for t in network.tensors if getattr(t, role)]
        self._layouts = Layouts(purpose, self.dtype, steps, logits, trained, rate_grad, _KEPT)
        self._bytes = Recent[tuple[int, int, int, bool], int](_KEPT)
        self._tables = devices.Tables(self.plan.device_tables)
        weakref.finalize(self, release_workspaces).atexit = False

    def program_bytes(self, device: torch.device = _CPU) -> int:
        """Bytes of the program itself, as long as the plan is kept; on a device, of its tables."""
        on_device = self.engine.on_device(device)
        return self.plan.device_program_bytes() if on_device else self.plan.program_bytes()

    @property
    def bytes(self) -> int:
        """Bytes that the plan holds on the host: its program, and what is kept of its calls."""
        sizes = [key for key, _ in self._bytes.everything()]
        lowered = any(on_device for *_, on_device in sizes)
        tables = self.plan.device_program_bytes() if lowered else 0
        return self.plan.program_bytes() + tables + self._layouts.bytes + len(sizes) * _SIZE_BYTES

    def workspace_bytes(
        self, tasks: int, threads: int, lanes: int = 0, device: torch.device = _CPU
    ) -> int:
        """Bytes of workspace that a call over `tasks` tasks needs, at most `lanes` at a time."""
        return self._workspace_bytes(tasks, threads, lanes, self.engine.on_device(device))

    def _workspace_bytes(self, tasks: int, threads: int, lanes: int, on_device: bool) -> int:
        key = (tasks, threads, lanes, on_device)
        size = self._bytes[key]
        if size is None:
            size = self._bytes[key] = (
                self.plan.device_workspace_bytes(tasks, lanes)
                if on_device
                else self.plan.workspace_bytes(tasks, threads, lanes)
            )
        return size

    def describe(self, tasks: int, threads: int, lanes: int, device: torch.device) -> str:
        """The program as text, and how a call over `tasks` tasks would run on the device."""
        if not self.engine.on_device(device):
            return self.plan.describe(tasks, threads, lanes)
        limit = self.engine.core.device_shared_limit(device.index or 0)
        return self.plan.describe_device(tasks, lanes, self.engine.team, limit)

    def device_cost(self, tasks: int, shared_limit: int, lanes: int = 0) -> CORE.DeviceCost:
        """What a call would cost on a CUDA device; none is needed, nor a build with CUDA.

        Args:
            tasks: T.
            shared_limit: The most shared memory that a block of the device can have, in bytes.
            lanes: How many tasks at a time at most; 0 for as many as a round holds.

        Returns:
            Launches, kernels, FLOPs and bytes, also by kind; see csrc/engine/device_cost.hpp.
        """
        return self.plan.device_cost(tasks, lanes, self.engine.team, shared_limit)

    def run(
        self,
        tasks: Tasks,
        theta: Theta,
        rate: float | Tensor,
        threads: int | None = None,
        lanes: int = 0,
    ) -> Outputs:
        """Run the program, whatever grad or inference mode the caller is in.

        Args:
            tasks: Checked data.
            theta: The network's tensors, contiguous, in its order.
            rate: The inner learning rate of every step: a number, or a 0-dim tensor, which is
                not looked at where it lies on the data's device.
            threads: How many; torch's number unless given.
            lanes: How many tasks at a time at most; 0 for as many as threads.

        Returns:
            The `Outputs`, freshly allocated.
        """
        threads = torch.get_num_threads() if threads is None else threads
        written, executor = self._call(self.plan.run, threads, lanes, tasks, theta, rate)
        return Outputs(*written, executor)

    def profile(
        self, tasks: Tasks, theta: Theta, rate: float
    ) -> tuple[Outputs, list[InstructionTime]]:
        """Run the program on one thread and time its instructions.

        Args:
            tasks: As for `run`.
            theta: As for `run`.
            rate: As for `run`.

        Returns:
            The same `Outputs` as `run`, and every instruction in the program's order.
        """
        written, times = self._call(self.plan.profile, 1, 0, tasks, theta, rate)
        return Outputs(*written, ""), [InstructionTime(t.label, t.seconds, t.flops) for t in times]

    def _place(self, device: torch.device) -> CORE.Place:
        """Where a call on a device runs."""
        stream = devices.current_stream(device)
        tables, team = self._tables.on(device, stream), self.engine.team
        place: CORE.Place = self.engine.core.Place(
            device=device.index or 0, stream=stream, tables=tables, team=team
        )
        return place

    def _call(
        self,
        entry: Callable[..., _Answer],
        threads: int,
        lanes: int,
        tasks: Tasks,
        theta: Theta,
        rate: float | Tensor,
    ) -> tuple[_Written, _Answer]:
        if torch.is_inference_mode_enabled():
            with grad_mode():  # .grad must be an ordinary tensor
                return self._call(entry, threads, lanes, tasks, theta, rate)
        support = _dense(tasks.support_x), _dense(tasks.support_y)
        alone = self.settings.mode == "adapt"
        query = support if alone else (_dense(tasks.query_x), _dense(tasks.query_y))
        count, device = tasks.tasks, tasks.support_x.device
        losses, logits, *outputs = all_empty(self._layouts.of(count), device)
        dots = outputs.pop() if self.settings.rate_grad else None
        on_device = self.engine.on_device(device)
        size = self._workspace_bytes(count, threads, lanes, on_device)
        rates, scalars = self._rates(rate, count, device if on_device else None)
        place = self._place(device) if on_device else self._cpu
        workspace = take_workspace(size, device)
        try:
            answer = entry(
                *(count, threads, lanes, *support, *query, rates, theta, outputs),
                *(losses, logits, dots, workspace, size, place, scalars),
            )
        finally:
            keep_workspace(workspace)
        return (losses, logits, outputs, dots), answer

    def _rates(
        self, rate: float | Tensor, tasks: int, device: torch.device | None
    ) -> tuple[list[float], Tensor | None]:
        """The rates as numbers, or, where they lie on the call's device, its scalars."""
        steps = self.settings.inner_steps
        if device is None or not isinstance(rate, Tensor) or rate.device != device:
            return [float(rate)] * steps, None
        return [0.0] * steps, devices.scalars(self.plan.scalars(tasks), rate, self.dtype)


def _network_spec(core: Any, network: Network, loss: Loss) -> CORE.NetworkSpec:
    """The network and its loss as the core takes them."""
    spec: CORE.NetworkSpec = core.NetworkSpec(
        list(network.row_shape),
        [core.TensorSpec(t.name, list(t.shape), t.adapted, t.trained) for t in network.tensors],
        [
            core.NodeSpec(n.op, list(n.inputs), list(n.params), n.attrs, list(n.shape), n.name)
            for n in network.nodes
        ],
        network.output,
        core.NodeSpec(loss.op or "", [], [], dict(loss.attrs), [], loss.name),
    )
    return spec


def snapshot(
    equal: list[tuple[Any, Any]],
    same: list[tuple[dict[str, Any], dict[str, Any]]],
    empty: list[Any],
    flags: list[tuple[Tensor, bool]],
    items: list[tuple[Any, str, Any]],
) -> CORE.Snapshot:
    """A model as it is. Later its ``holds()`` says whether it still is, or raises as ``==`` does.

    Args:
        equal: Objects beside what they must be equal to.
        same: Dicts beside copies, which must hold the same, in the same order.
        empty: Containers that must hold nothing.
        flags: Tensors beside their ``requires_grad``.
        items: Dicts or objects, names, and what they must hold or have by these names.
    """
    return CORE.Snapshot(equal, same, empty, flags, items)


def fitting(
    tensors: list[Tensor], shapes: list[torch.Size], like: Tensor, core: Any = CORE
) -> CORE.Tensors | None:
    """The tensors if all are `readable`, C-ordered, of these shapes, and like one tensor."""
    found: CORE.Tensors | None = None if core is None else core.fitting(tensors, shapes, like)
    return found


def readable(*tensors: Tensor) -> bool:
    """Whether tensors are plain and have memory for all their numbers.

    False also where that cannot be told fast: of a subclass, or by a torch before 2.10.
    """
    return CORE is not None and CORE.readable(*tensors)


def passing(
    support: Any, query: Any, dtype: torch.dtype, device: torch.device, indices: bool, any_y: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int, int, tuple[int, ...]] | None:
    """The fields of `Tasks` of sets that pass the door; None also as of `readable`."""
    return None if CORE is None else CORE.passing(support, query, dtype, device, indices, any_y)


def targets_fit(output: tuple[int, ...], tasks: Tasks, indices: bool) -> bool:
    """Whether y fit rows of the model's output; False also as of `readable`."""
    return CORE is not None and CORE.targets_fit(output, tasks.support_y, tasks.query_y, indices)


def give_grads(parameters: list[Tensor], grads: list[Tensor]) -> bool:
    """Make gradients the ``.grad`` of parameters, or nothing and False where one has some."""
    return CORE.give_grads(parameters, grads)


def _dense(tensor: Tensor) -> Tensor:
    # A negated view is contiguous, but its memory holds the other sign.
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.resolve_neg().contiguous()
