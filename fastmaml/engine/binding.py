"""The only user of the compiled module: plans, pointers and the bytes they point at.

Python owns every byte: outputs are torch tensors, and workspaces are kept for later calls.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from fastmaml.engine import _device
from fastmaml.errors import BackendError
from fastmaml.modes import grad_mode

from .allocate import InstructionTime, Layouts, Outputs, all_empty
from .kept import Recent
from .workspaces import keep_workspace, release_workspaces, take_workspace

try:
    from fastmaml import _C
except ImportError as error:  # a source tree that was not built, or a platform without a wheel
    _C = None  # type: ignore[assignment]
    _REASON = str(error)

__all__ = ["CompiledPlan", "Outputs", "Purpose", "available", "info", "peak_flops", "require"]

_CPU = torch.device("cpu")
_KEPT = 64  # numbers of tasks whose layouts and workspace's size a plan remembers
_SIZE_BYTES = 1024  # of what is kept of each, in the core too
Purpose = Literal["meta_step", "evaluate", "curve", "adapt"]
_Answer = TypeVar("_Answer")
_Written = tuple[Tensor, Tensor, list[Tensor], Tensor | None]
if TYPE_CHECKING:
    from fastmaml.losses import Loss
    from fastmaml.tasks import Tasks
    from fastmaml.tracing.trace import Network

    Snapshot = _C.Snapshot
    Theta = list[Tensor] | _C.Tensors  # a network's tensors, contiguous, in its order

TEAM = 0
"""Most blocks that share a task on a device; 0: as many as pay. Tests force it."""
ALL_THREADS = False
"""Whether calls begin when all their threads are there. Tests force it."""
FACTORED = -1
"""How plans keep wide weights: -1 by estimated cost, 0 dense, 1 factored. Tests force it."""
MOMENT_BYTES = -1
"""Least output of a convolution that leaves moments for its batch norm; -1: what pays."""
RUN_PIXELS = 512
"""Pixels of a run of a long sum over pixels, on a device. Tests force short ones."""
WINOGRAD = -1
"""Side of the tiles of Winograd's method, for 3 x 3 convolutions: 5 or 6, 0 none, -1 by cost."""


def available() -> bool:
    """Whether the compiled engine could be loaded."""
    return _C is not None


def require(where: str, device: torch.device | None = None) -> None:
    """Raise unless the engine is there, and can run on the device.

    Args:
        where: The call that error texts begin with.
        device: Of the model's parameters; None asks for the engine alone.

    Raises:
        BackendError: It is not; the text says why and what to do.
    """
    if device is not None and device.type != "cpu":
        absence = _C.device_absence() if device.type == "cuda" else f"it knows no {device.type}"
        if absence:
            raise BackendError(
                f'{where}: backend "fused" cannot run on {device}: {absence}; call model.cpu(), '
                'or use backend="reference".'
            )
    elif _C is None:
        raise BackendError(
            f'{where}: backend "fused" needs the compiled engine fastmaml._C, got: {_REASON}; '
            'install fastmaml with "pip install .", or use backend="reference".'
        )


def usable_processors() -> int:
    """Processors that the process may keep busy, by its affinity and its control groups' quota."""
    return (os.cpu_count() or 1) if _C is None else _C.usable_processors()


def info() -> dict[str, str]:
    """What the engine is and runs on: ``instruction_set`` and ``cuda``."""
    return {
        "instruction_set": "not built" if _C is None else _C.instruction_set(),
        "cuda": "not built" if _C is None else _C.device_absence() or "ready",
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
    return _C.peak_flops(dtype is torch.float64, threads)


class CompiledPlan:
    """One program of the engine and the workspace it runs in.

    Args:
        network: The traced model.
        loss: A loss with an op.
        purpose: What the program produces.
        dtype: ``torch.float32`` or ``torch.float64``.
        support_rows: S.
        query_rows: Q.
        inner_steps: K.
        first_order: Whether the Hessian terms are dropped.
        rate_grad: Whether the rates' meta-gradients are wanted.
        recompute: Whether the sweep makes the activations of inner steps again.
        factored: -1 lets the planner choose how wide weights are kept; 0 dense, 1 factored.
        winograd: The same for Winograd's method: 0 none; 5 or 6 all, the side of their tiles.
        moment_bytes: From where on the input of a batch norm counts as large; -1: where that pays.
        device: Whether the program is for a CUDA device: cut for it, and run nowhere else.
        run_pixels: On a device, the pixels of a run of a long sum over pixels.
        most_bytes: Of the program while it is written; 0: any.
        tf32: Whether a device rounds the factors of linear layers and convolutions to tf32.

    Raises:
        UnsupportedModelError: The engine lacks an op of the network.
        ShapeError: The network's shapes do not fit together.
        SettingError: The program is larger than `most_bytes`.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        *,
        purpose: Purpose,
        dtype: torch.dtype,
        support_rows: int,
        query_rows: int,
        inner_steps: int,
        first_order: bool,
        rate_grad: bool,
        recompute: bool = False,
        factored: int = -1,
        winograd: int = -1,
        moment_bytes: int = -1,
        device: bool = False,
        run_pixels: int = RUN_PIXELS,
        most_bytes: int = 0,
        tf32: bool = False,
    ) -> None:
        """Write the program."""
        self.plan = _C.Plan(
            list(network.row_shape),
            [_C.TensorSpec(t.name, list(t.shape), t.adapted, t.trained) for t in network.tensors],
            [
                _C.NodeSpec(n.op, list(n.inputs), list(n.params), n.attrs, list(n.shape), n.name)
                for n in network.nodes
            ],
            network.output,
            _C.NodeSpec(loss.op or "", [], [], dict(loss.attrs), [], loss.name),
            float64=dtype is torch.float64,
            mode=getattr(_C.Mode, purpose),
            support_rows=support_rows,
            query_rows=query_rows,
            inner_steps=inner_steps,
            first_order=first_order,
            rate_grad=rate_grad,
            recompute=recompute,
            factored=factored,
            winograd=winograd,
            moment_bytes=moment_bytes,
            device=device,
            run_pixels=run_pixels,
            most_bytes=most_bytes,
            tf32=tf32,
        )
        self._cpu = _C.Place()
        self.dtype = dtype
        self.purpose = purpose
        self.inner_steps = inner_steps
        self.rate_grad = rate_grad
        self.output_shape = tuple(self.plan.output_shape())
        self.used = self.counted = 0  # when it was last used, and bytes then: see `plan`
        logits = 0 if purpose == "adapt" else query_rows, *self.output_shape
        role = "adapted" if purpose == "adapt" else "trained"
        trained = [tuple(t.shape) for t in network.tensors if getattr(t, role)]
        self._layouts = Layouts(purpose, dtype, inner_steps, logits, trained, rate_grad, _KEPT)
        self._bytes = Recent[tuple[int, int, int, bool], int](_KEPT)
        self._tables = _device.Tables(self.plan.device_tables)
        weakref.finalize(self, release_workspaces).atexit = False

    def program_bytes(self, device: torch.device = _CPU) -> int:
        """Bytes of the program itself, as long as the plan is kept; on a device, of its tables."""
        on_device = _device.on_device(device)
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
        on_device = _device.on_device(device)
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
        if not _device.on_device(device):
            return self.plan.describe(tasks, threads, lanes)
        limit = _C.device_shared_limit(device.index or 0)
        return self.plan.describe_device(tasks, lanes, TEAM, limit)

    def device_cost(self, tasks: int, shared_limit: int, lanes: int = 0) -> _C.DeviceCost:
        """What a call would cost on a CUDA device; none is needed, nor a build with CUDA.

        Args:
            tasks: T.
            shared_limit: The most shared memory that a block of the device can have, in bytes.
            lanes: How many tasks at a time at most; 0 for as many as a round holds.

        Returns:
            Launches, kernels, FLOPs and bytes, also by kind; see csrc/engine/device_cost.hpp.
        """
        return self.plan.device_cost(tasks, lanes, TEAM, shared_limit)

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

    def _place(self, device: torch.device) -> _C.Place:
        """Where a call runs."""
        if not _device.on_device(device):
            return _C.Place(all_threads=True) if ALL_THREADS else self._cpu
        stream = _device.current_stream(device)
        tables = self._tables.on(device, stream)
        return _C.Place(device=device.index or 0, stream=stream, tables=tables, team=TEAM)

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
        alone = self.purpose == "adapt"
        query = support if alone else (_dense(tasks.query_x), _dense(tasks.query_y))
        count, device = tasks.tasks, tasks.support_x.device
        losses, logits, *outputs = all_empty(self._layouts.of(count), device)
        dots = outputs.pop() if self.rate_grad else None
        size = self.workspace_bytes(count, threads, lanes, device)
        rates, scalars = self._rates(rate, count, device)
        place = self._place(device)
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
        self, rate: float | Tensor, tasks: int, device: torch.device
    ) -> tuple[list[float], Tensor | None]:
        """The rates as numbers, or, where they lie on the device, its scalars."""
        if not isinstance(rate, Tensor) or not _device.on_device(device) or rate.device != device:
            return [float(rate)] * self.inner_steps, None
        scalars = _device.scalars(self.plan.scalars(tasks), rate, self.dtype)
        return [0.0] * self.inner_steps, scalars


def snapshot(
    equal: list[tuple[Any, Any]],
    same: list[tuple[dict[str, Any], dict[str, Any]]],
    empty: list[Any],
    flags: list[tuple[Tensor, bool]],
    items: list[tuple[Any, str, Any]],
) -> _C.Snapshot:
    """A model as it is. Later its ``holds()`` says whether it still is, or raises as ``==`` does.

    Args:
        equal: Objects beside what they must be equal to.
        same: Dicts beside copies, which must hold the same, in the same order.
        empty: Containers that must hold nothing.
        flags: Tensors beside their ``requires_grad``.
        items: Dicts or objects, names, and what they must hold or have by these names.
    """
    return _C.Snapshot(equal, same, empty, flags, items)


def fitting(tensors: list[Tensor], shapes: list[torch.Size], like: Tensor) -> _C.Tensors | None:
    """The tensors if all are `readable`, C-ordered, of these shapes, and like one tensor."""
    return None if _C is None else _C.fitting(tensors, shapes, like)


def readable(*tensors: Tensor) -> bool:
    """Whether tensors are plain and have memory for all their numbers.

    False also where that cannot be told fast: of a subclass, or by a torch before 2.10.
    """
    return _C is not None and _C.readable(*tensors)


def give_grads(parameters: list[Tensor], grads: list[Tensor]) -> bool:
    """Make gradients the ``.grad`` of parameters, or nothing and False where one has some."""
    return _C.give_grads(parameters, grads)


def first_bad_class(y: Tensor, classes: int) -> int:
    """Index of the first class index outside ``0..classes-1`` in a flat view, or -1."""
    return _C.first_outside(_dense(y), classes)


def _dense(tensor: Tensor) -> Tensor:
    # A negated view is contiguous, but its memory holds the other sign.
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.resolve_neg().contiguous()
