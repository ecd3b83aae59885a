"""What a result says about its machine (no names, no paths), and the peak it is held against."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Peak:
    """Measured floating point peak.

    Attributes:
        gflops: GFLOP/s of float32 on all threads of the run.
        method: "fma" (independent register FMAs) or "sgemm" (torch's matrix product, where fastmaml
            is missing).
    """

    gflops: float
    method: str


def measure_peak(threads: int) -> Peak:
    """The machine's float32 peak: the best of several bursts; disturbances only slow one down."""
    try:
        from fastmaml.engine import binding
    except ImportError:
        return Peak(_sgemm(), "sgemm")
    if not binding.available():
        return Peak(_sgemm(), "sgemm")
    return Peak(max(binding.peak_flops(torch.float32, threads) for _ in range(3)) / 1e9, "fma")


def _sgemm(size: int = 1024, bursts: int = 5) -> float:
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = float("inf")
    for _ in range(bursts):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


@cache
def describe() -> dict[str, str | int]:
    """Processor, cores and versions, as flat JSON values."""
    machine: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
    }
    for package in ("fastmaml", "torch", "jax", "numpy", "higher"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            machine[package] = importlib.metadata.version(package)
    return machine


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
        pairs = (line.partition(":") for line in lines)
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        if "model name" in fields:
            # Virtual machines report only the brand; family and model say which generation it is.
            generation = f"family {fields.get('cpu family')}, model {fields.get('model')}"
            return f"{fields['model name']} ({generation})"
    return platform.processor() or "unknown"
