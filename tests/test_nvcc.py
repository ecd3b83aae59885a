"""What nvcc makes of the device code, on every architecture: no warning, no stack, no spill.

Nothing here needs a device. The kernels are compiled once: tests/conftest.py keeps these tests in
one process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nvcc_build import ARCHITECTURES, ROOT, CudaBuild, Step, budgets, inner_loops, require_nvcc

from fastmaml import _C

pytestmark = pytest.mark.slow

# Of the instructions of the loop over a slab's depth: the multiply-adds of the widest tile, whose
# other instructions are loads of 16 bytes, counters and branches. Measured where they are fewest
# (0.71, 0.79 and 0.65) and rounded down, as compilers differ by an instruction or two.
PRODUCTS = {
    ("DeviceContractArgs", "f32"): ("FFMA", 0.70),
    ("DeviceContractArgs", "f64"): ("DFMA", 0.64),
    ("DeviceConvArgs", "f32"): ("FFMA", 0.78),
    ("DeviceConvArgs", "f64"): ("DFMA", 0.60),
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> CudaBuild:
    """The kernels' build, whose warnings are errors."""
    require_nvcc()
    return CudaBuild(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def module(build: CudaBuild) -> Path:
    """The extension that is installed, or one around these kernels where that has no CUDA."""
    without = _C.device_absence().startswith("this build has no CUDA")
    return build.module() if without else Path(_C.__file__)


def test_every_kernel_has_a_budget_on_every_architecture(build: CudaBuild) -> None:
    wanted = {(kernel, sm) for kernel in budgets() for sm in ARCHITECTURES}
    assert {(kernel, sm) for kernel, sm, _ in build.usages()} == wanted


def test_kernels_keep_to_registers(build: CudaBuild) -> None:
    """No stack, no spill, and no shared memory beside what launches give.

    That is kInstructionBytes, which budgets.hpp bounds, or what the device says it has.
    """
    registers = budgets()
    over = [
        (kernel, sm, usage)
        for kernel, sm, usage in build.usages()
        if usage.stack or usage.spills or usage.shared or usage.registers > registers[kernel]
    ]
    assert over == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code_touches_no_local_memory(build: CudaBuild, architecture: str) -> None:
    stacks = build.stacks(architecture)
    assert len(stacks) == len(budgets())
    assert set(stacks) == {0}
    local = {
        kernel
        for kernel, steps in build.machine_code(architecture).items()
        if any(step.name.startswith(("LDL", "STL")) for step in steps)
    }
    assert local == set()


def products(steps: list[Step], name: str) -> int:
    return sum(step.name.startswith(name) for step in steps)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("kernel", "dtype"), PRODUCTS)
def test_inner_loops_multiply(build: CudaBuild, kernel: str, dtype: str, architecture: str) -> None:
    """The widest tile spends its time on products, and reads and copies 16 bytes at a time."""
    name, share = PRODUCTS[kernel, dtype]
    steps = build.machine_code(architecture)[kernel, dtype]
    loop = max(inner_loops(steps), key=lambda steps: products(steps, name))
    work = sum(step.name != "NOP" for step in loop)  # 12.0 waits for its few double units so
    assert products(loop, name) >= share * work
    loads = [step.name for step in loop if step.name.startswith(("LDS", "LD."))]
    assert loads
    assert {load.split(".")[-1] for load in loads} == {"128"}
    assert any(re.match(r"LDGSTS\..*\b128\b", step.name) for step in steps)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", [kernel for kernel, _ in budgets() if "_split_" in kernel])
def test_tiles_of_deep_sums_multiply(build: CudaBuild, kernel: str, architecture: str) -> None:
    """Most of the loop is products, 32 a depth; it reads rows of images number by number."""
    steps = build.machine_code(architecture)[kernel, "f32"]
    loop = max(inner_loops(steps), key=lambda steps: products(steps, "FFMA"))
    assert products(loop, "FFMA") >= 0.82 * len(loop)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["DeviceContractArgs_tf32", "DeviceConvArgs_tf32"])
def test_tf32_takes_the_tensor_cores(build: CudaBuild, kernel: str, architecture: str) -> None:
    steps = build.machine_code(architecture)[kernel, "f32"]
    assert any(step.name.startswith("HMMA.1688.F32.TF32") for step in steps)


PROGRAM = """
import torch, fastmaml
from fastmaml import _C

said = _C.device_absence()
assert said.startswith("CUDA says: "), said
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
data = [(torch.randn(4, 5, 3), torch.randn(4, 5, 2)) for _ in range(2)]
settings = {"loss": "mse", "inner_lr": 0.1, "inner_steps": 2, "backend": "fused"}
print(fastmaml.meta_step(net, *data, **settings).executor)
try:
    _C.device_shared_limit(0)
except fastmaml.BackendError as error:
    print(error)
"""


def test_module_with_cuda_runs_where_no_device_is(module: Path, tmp_path: Path) -> None:
    """The runtime is linked statically and asks for the driver only when it is needed."""
    package = tmp_path / "fastmaml"
    shutil.copytree(
        ROOT / "fastmaml", package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copy(module, package)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    executor, refusal = done.stdout.splitlines()
    assert executor == "cpu"
    assert refusal.startswith("CUDA: ")
