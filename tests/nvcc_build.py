"""A build with CUDA for every architecture: what compiler and disassembler say of its kernels."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
DTYPES = {"f": "f32", "d": "f64"}

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(sm_\d+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")
INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;")
BACKWARD = re.compile(r"BRA\b.*?\b0x([0-9a-f]+)")


class Usage(NamedTuple):
    """What ptxas gave a kernel."""

    stack: int
    spills: int
    registers: int
    shared: int


class Step(NamedTuple):
    """One machine instruction."""

    at: int
    text: str

    @property
    def name(self) -> str:
        return self.text.split()[0]


def kernel_of(symbol: str) -> tuple[str, str] | None:
    """(the name that its budget has, the dtype) of a mangled kernel."""
    if found := re.search(r"instruction_kernelI([fd])NS_\d+([A-Za-z]+)EJ(\w*?)EEEv", symbol):
        return found[2] + tiles_of(found[3]), DTYPES[found[1]]
    if found := re.search(r"\d+residentI([fd])E", symbol):
        return "resident", DTYPES[found[1]]
    return ("write_words", "f32") if "write_words" in symbol else None


def tiles_of(symbol: str) -> str:
    """What the name of a kernel with tiles ends with, from the mangled tiles."""
    if found := re.search(r"SplitTilesILNS_10DepthSplitE([1-4])E", symbol):
        return "_split_" + ("high", "narrow", "others", "weights")[int(found[1]) - 1]
    return "_tf32" if "Tf32Tiles" in symbol else ""


def budgets() -> dict[tuple[str, str], int]:
    """Registers by kernel and dtype, as csrc/cuda/budgets.hpp and the ops' _cuda.cuh have them."""
    text = (ROOT / "csrc/cuda/budgets.hpp").read_text()
    rows = re.findall(r'\{"(\w+)", \{(\d+), (\d+)\}', text)
    for path in sorted((ROOT / "csrc/ops").glob("*/*_cuda.cuh")):
        rows += re.findall(r"kRegisterBudget<(\w+)> = \{(\d+), (\d+)\};", path.read_text())
    table = {(kernel, "f32"): int(f32) for kernel, f32, _ in rows}
    return table | {(k, "f64"): int(f64) for k, _, f64 in rows if int(f64)}


class CudaBuild:
    """One build tree with the kernels of all architectures."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": tool("ninja"),
            "CMAKE_CUDA_FLAGS": "-Xptxas=-v",
            "FASTMAML_CUDA": "ON",
            "FASTMAML_CUDA_ARCHITECTURES": "all",
            "FASTMAML_WERROR": "ON",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pytest.importorskip("pybind11").get_cmake_dir(),
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        self._cmake("-S", str(ROOT), "-B", str(tree), "-G", "Ninja", *options)
        self.log = self._build("device_cuda")

    def module(self) -> Path:
        """The extension with these kernels, built now."""
        self._build("_C")
        (module,) = self.tree.glob("_C*.so")
        return module

    def _build(self, target: str) -> str:
        jobs = len(os.sched_getaffinity(0))
        return self._cmake("--build", str(self.tree), "--target", target, "--parallel", str(jobs))

    @staticmethod
    def _cmake(*arguments: str) -> str:
        done = subprocess.run(
            [tool("cmake"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def usages(self) -> Iterator[tuple[tuple[str, str], str, Usage]]:
        """(kernel, architecture, usage) of everything that ptxas reported."""
        for part in re.split(r"(?=Compiling entry function)", self.log):
            entry, stack, used = ENTRY.search(part), STACK.search(part), USED.search(part)
            if entry is None:
                continue
            assert stack is not None
            assert used is not None
            kernel = kernel_of(entry[1])
            assert kernel is not None, entry[1]
            spills = int(stack[2]) + int(stack[3])
            yield kernel, entry[2], Usage(int(stack[1]), spills, int(used[1]), int(used[2] or 0))

    @functools.cache  # noqa: B019  # one build a session
    def machine_code(self, architecture: str) -> dict[tuple[str, str], list[Step]]:
        """Every kernel's instructions."""
        kernels: dict[tuple[str, str], list[Step]] = {}
        for path in sorted(self.tree.glob("CMakeFiles/device_cuda.dir/**/*.cu.o")):
            steps: list[Step] = []
            for line in self._dump("-sass", architecture, path).splitlines():
                if found := re.search(r"Function : (\S+)", line):
                    kernel = kernel_of(found[1])
                    assert kernel is not None, line
                    steps = kernels.setdefault(kernel, [])
                elif found := INSTRUCTION.match(line):
                    steps.append(Step(int(found[1], 16), found[2]))
        return kernels

    def stacks(self, architecture: str) -> list[int]:
        """The stack of every kernel, by the disassembler's count."""
        paths = sorted(self.tree.glob("CMakeFiles/device_cuda.dir/**/*.cu.o"))
        said = "".join(self._dump("-res-usage", architecture, path) for path in paths)
        return [int(stack) for stack in re.findall(r"STACK:(\d+)", said)]

    @staticmethod
    def _dump(what: str, architecture: str, path: Path) -> str:
        program = disassembler()
        folders = os.pathsep.join([str(program.parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            [program, what, "-arch", architecture, path],
            env={**os.environ, "PATH": folders},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr


def tool(name: str) -> str:
    """A build tool of the test extra."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; it comes with the extra `test`")
    return found


def require_nvcc() -> None:
    """Skips where there is no nvcc."""
    if shutil.which(os.environ.get("CUDACXX", "nvcc")) is None:
        pytest.skip("nvcc is not installed; it comes with the CUDA toolkit")


def disassembler() -> Path:
    """cuobjdump, of the toolkit or of the extra `cuda-test`; it finds nvdisasm beside it."""
    if found := shutil.which("cuobjdump"):
        return Path(found)
    try:
        files = metadata.files("nvidia-cuda-cuobjdump") or []
        metadata.version("nvidia-cuda-nvdisasm")
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed; it comes with the extra `cuda-test`")
    return next(Path(str(file.locate())) for file in files if file.name == "cuobjdump")


def inner_loops(steps: list[Step]) -> list[list[Step]]:
    """The loops of a kernel that hold no other loop."""
    spans = [
        (int(found[1], 16), step.at)
        for step in steps
        if (found := BACKWARD.match(step.text)) and int(found[1], 16) <= step.at
    ]
    inner = [
        (first, last)
        for first, last in spans
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans)
    ]
    return [[s for s in steps if first <= s.at <= last] for first, last in inner]
