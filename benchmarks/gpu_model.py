"""What meta-steps would cost on GPUs that are not here: counted and bounded, never measured.

The engine counts launches, arithmetic and global memory of a plan without any device
(csrc/engine/device_cost.hpp). Against a data sheet's peaks they bound a step's time from below:

    arithmetic   FLOPs of the contractions / peak of the multiprocessors that get work
    memory       bytes / bandwidth, each kernel reading its inputs and writing its outputs once
    starts       kernels that run one after another x KERNEL_SECONDS

A step takes at least the largest of the three. No kernel reaches a peak, so that real steps take
longer; but the bytes may be fewer than counted, where a second-level cache (40 MB on the A100, 50
MB on the H100) still holds what an earlier kernel wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.workloads import WORKLOADS, Workload
from fastmaml import losses
from fastmaml.engine import binding
from fastmaml.engine.binding import CompiledPlan, PlanSettings
from fastmaml.tracing.trace import trace

# An assumption, not a measurement: what a graph's kernel takes at least from the end of the one
# before it to its own, however little it does.
KERNEL_SECONDS = 1.5e-6

LABEL = "**Modelled, not measured.**"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device as its data sheet knows it.

    Attributes:
        name: Of the table.
        source: Where the numbers stand.
        flops: FLOP/s of float32 outside the tensor cores.
        tensor_flops: FLOP/s of TF32 in the tensor cores, dense; fastmaml does not use them unless
            it is asked to.
        bandwidth: Bytes a second of global memory.
        multiprocessors: How many it has.
        shared_limit: The most shared memory that a block can have, in bytes (CUDA C++ Programming
            Guide, technical specifications per compute capability).
    """

    name: str
    source: str
    flops: float
    tensor_flops: float
    bandwidth: float
    multiprocessors: int
    shared_limit: int


A100 = Gpu(
    name="A100 40 GB",
    source="NVIDIA A100 Tensor Core GPU data sheet",
    flops=19.5e12,
    tensor_flops=156e12,
    bandwidth=1555e9,
    multiprocessors=108,
    shared_limit=163 * 1024,
)
H100 = Gpu(
    name="H100 SXM",
    source="NVIDIA H100 Tensor Core GPU data sheet",
    flops=67e12,
    tensor_flops=495e12,
    bandwidth=3350e9,
    multiprocessors=132,
    shared_limit=227 * 1024,
)
GPUS = (A100, H100)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds that one step takes at least, by what would hold it up."""

    arithmetic: float
    memory: float
    starts: float
    tensor_arithmetic: float

    @property
    def seconds(self) -> float:
        """The largest of the float32 bounds."""
        return max(self.arithmetic, self.memory, self.starts)

    @property
    def holds(self) -> str:
        """Which of them it is."""
        return max(("arithmetic", "memory", "starts"), key=lambda name: getattr(self, name))


def compile_step(workload: Workload) -> CompiledPlan:
    """The program of a workload's meta-step: second order, float32, activations kept.

    Raises:
        BackendError: The engine is not built.
    """
    binding.require("benchmarks model")
    network = workload.network
    with torch.random.fork_rng(devices=[]):
        traced = trace(network.module(), tuple(network.row))
    return CompiledPlan(
        traced,
        losses.resolve(workload.loss),
        PlanSettings(
            mode="meta_step",
            float64=False,
            support_rows=workload.support_rows,
            query_rows=workload.query_rows,
            inner_steps=workload.inner_steps,
            first_order=False,
            rate_grad=False,
            device=True,
        ),
    )


def bounds(cost: Any, gpu: Gpu, tasks: int) -> Bounds:
    """The bounds of a step.

    Args:
        cost: `CompiledPlan.device_cost`.
        gpu: The device.
        tasks: T. The resident kernel gives each a block, and so no more than a multiprocessor.
    """
    busy = 1.0 if cost.obstacle else min(1.0, tasks / gpu.multiprocessors)
    return Bounds(
        arithmetic=cost.flops / (gpu.flops * busy),
        memory=cost.bytes / gpu.bandwidth,
        starts=cost.kernels * KERNEL_SECONDS,
        tensor_arithmetic=cost.flops / (gpu.tensor_flops * busy),
    )


def render(names: list[str], *, kinds: bool = False) -> str:
    """The model of some workloads as Markdown, a table for each device.

    Args:
        names: Keys of `WORKLOADS`.
        kinds: Whether a table of every workload's instructions by kind follows.

    Returns:
        Text without trailing newline.
    """
    plans = {name: compile_step(WORKLOADS[name]) for name in names}
    parts = [_table(gpu, plans) for gpu in GPUS]
    if kinds:
        parts += [_kinds(name, plan) for name, plan in plans.items()]
    return "\n\n".join([*parts, _caption()])


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _table(gpu: Gpu, plans: dict[str, CompiledPlan]) -> str:
    head = ["workload", "path", "launches", "kernels", "GFLOP", "MB moved"]
    head += ["arithmetic", "(TF32)", "memory", "starts", "a step takes at least", "steps/s"]
    rows = []
    for name, plan in plans.items():
        tasks = WORKLOADS[name].tasks
        cost = plan.device_cost(tasks, gpu.shared_limit)
        least = bounds(cost, gpu, tasks)
        rows.append(
            [
                name,
                "graph" if cost.obstacle else "resident",
                f"{cost.launches}",
                f"{cost.kernels}",
                f"{cost.flops / 1e9:.3g}",
                f"{cost.bytes / 1e6:.3g}",
                _time(least.arithmetic),
                _time(least.tensor_arithmetic),
                _time(least.memory),
                _time(least.starts),
                f"{_time(least.seconds)} ({least.holds})",
                f"at most {_rounded(1 / least.seconds)}",
            ]
        )
    peaks = (
        f"{gpu.name}: {gpu.flops / 1e12:g} TFLOP/s FP32, {gpu.tensor_flops / 1e12:g} TF32 dense, "
        f"{gpu.bandwidth / 1e9:,.0f} GB/s ({gpu.source})"
    )
    return f"{LABEL} {peaks}\n\n{_markdown(head, rows)}"


def _kinds(name: str, plan: CompiledPlan) -> str:
    cost = plan.device_cost(WORKLOADS[name].tasks, A100.shared_limit)
    rows = [
        [k.kind, f"{k.instructions}", f"{k.flops / 1e9:.3g}", f"{k.bytes / 1e6:.3g}"]
        for k in sorted(cost.kinds, key=lambda k: -k.bytes)
    ]
    return f"{name}\n\n" + _markdown(["kind", "instructions", "GFLOP", "MB moved"], rows)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _rounded(count: float) -> str:
    """Three digits, with separators: more would be noise."""
    return f"{float(f'{count:.3g}'):,.0f}"


def _caption() -> str:
    return (
        f"{LABEL} Counted from the engine's own programs in float32, second order, activations "
        "kept; bounded by the peaks of NVIDIA's data sheets. No number here was run on a GPU. A "
        "step takes at least the largest of: arithmetic (FLOPs of its contractions over the FP32 "
        "peak of the multiprocessors in use, one for each task on the resident path; the TF32 "
        "column is what the tensor cores' peak would allow), memory (each kernel reads its inputs "
        "and writes its outputs once, over the bandwidth), starts (kernels "
        f"x {KERNEL_SECONDS * 1e6:g} µs, an assumption, for what one kernel of a graph takes at "
        "least after the other). Second-level caches may save some of the memory's time, and "
        "kernels may start sooner than assumed; everything else only adds, and what the resident "
        "kernel's blocks wait for inside it is not counted at all. The host asks for one launch a "
        "step, of the resident kernel or of a graph of all kernels."
    )


__all__ = ["A100", "GPUS", "H100", "Bounds", "Gpu", "bounds", "compile_step", "render"]
