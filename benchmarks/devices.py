"""What a benchmark asks of a CUDA device, behind a face that tests can stand in for."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device_kernels import Share, shares

PEAK_SIZE, PEAK_BURSTS = 8192, 5
MEMORY_STEPS = 3


class Device(Protocol):
    """A device that steps are timed on."""

    place: str
    """Where torch's tensors go, as in ``tensor.to(place)``."""

    def facts(self) -> dict[str, str]:
        """Name, driver and versions, for the head of the results."""

    def visit(self, step: Callable[[], object], count: int) -> float:
        """Seconds per step of `count` steps, by the device's own clock."""

    def peak_gflops(self) -> float:
        """Measured rate of a large float32 matrix product."""

    def peak_memory(self, step: Callable[[], object]) -> int:
        """Bytes that steps allocate at most, above what is there before them."""

    def kernels(self, step: Callable[[], object]) -> list[Share]:
        """What the kernels of one step take, by what they do."""

    def plain_float32(self) -> AbstractContextManager[None]:
        """A context in which torch multiplies float32 as it is, not in TF32."""


class Cuda:
    """The first CUDA device."""

    place = "cuda:0"

    def facts(self) -> dict[str, str]:
        """Name, driver and versions."""
        facts = {
            "device": torch.cuda.get_device_name(0),
            "driver": _driver(),
            "CUDA of torch": str(torch.version.cuda),
        }
        for package in ("fastmaml", "torch", "jax"):
            with suppress(importlib.metadata.PackageNotFoundError):
                facts[package] = importlib.metadata.version(package)
        return facts

    def visit(self, step: Callable[[], object], count: int) -> float:
        """Seconds per step between two CUDA events of the current stream."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(count):
            step()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / count

    def peak_gflops(self) -> float:
        """The best of several bursts of `torch.mm`."""
        a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=self.place) for _ in range(2))
        with self.plain_float32():
            torch.mm(a, b)
            best = min(self.visit(lambda: torch.mm(a, b), 1) for _ in range(PEAK_BURSTS))
        return 2 * PEAK_SIZE**3 / best / 1e9

    def peak_memory(self, step: Callable[[], object]) -> int:
        """By torch's allocator, which is where fastmaml's workspace comes from, too."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(0)
        before = torch.cuda.memory_allocated(0)
        for _ in range(MEMORY_STEPS):
            step()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated(0)) - before

    def kernels(self, step: Callable[[], object]) -> list[Share]:
        """By torch's profiler, which sees the kernels of a graph one by one."""
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with profile(activities=activities) as profiler:
            step()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            return shares(json.loads(path.read_text())["traceEvents"])

    @contextmanager
    def plain_float32(self) -> Iterator[None]:
        """TF32 off for products and convolutions; torch has it on for the latter."""
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        before = products.allow_tf32, convolutions.allow_tf32
        products.allow_tf32 = convolutions.allow_tf32 = False
        try:
            yield
        finally:
            products.allow_tf32, convolutions.allow_tf32 = before


def absence() -> str:
    """Why steps cannot be timed on a CUDA device here, or ""."""
    from fastmaml.engine import binding

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else ", which is a build without CUDA"
        return f"torch {torch.__version__} sees none{built}"
    return binding.info()["cuda"].replace("ready", "")


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown (nvidia-smi is not there)"
    done = subprocess.run(
        [program, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


__all__ = ["Cuda", "Device", "absence"]
