"""What is installed, what the build says when a machine lacks something, what a wheel holds."""

from __future__ import annotations

import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fastmaml

ROOT = Path(__file__).resolve().parent.parent
WHEEL_BUDGET_BYTES = 5_000_000
# A minute on two cores, in processor seconds, so that a busy machine does not change the verdict.
BUILD_BUDGET_SECONDS = 120


def tool(name: str) -> str:
    """A build tool of the test extra."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; it comes with the extra `test`")
    return found


def sentence(output: str) -> str:
    """Our sentence in CMake's output, which breaks lines as it likes."""
    match = re.search(r"fastmaml: .*?\.(?=\n)", output, re.DOTALL)
    assert match is not None, output
    return " ".join(match[0].split())


# --- what is installed ----------------------------------------------------------------------------


def test_version_is_that_of_the_project() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert fastmaml.__version__ == metadata.version("fastmaml") == stated[1]


def test_metadata() -> None:
    about = metadata.metadata("fastmaml")
    assert about["Requires-Python"] == ">=3.10"
    assert about["License-Expression"] == "MIT"
    assert set(about.get_all("Provides-Extra", [])) == {
        "train", "bench", "test", "cuda-test", "dev", "docs",
    }  # fmt: skip
    required = [line for line in metadata.requires("fastmaml") or [] if "extra ==" not in line]
    assert sorted(re.split("[<>=]", line)[0] for line in required) == ["numpy", "torch"]


def test_console_script() -> None:
    scripts = metadata.entry_points(group="console_scripts", name="fastmaml")
    assert {script.value for script in scripts} == {"fastmaml.cli:main"}


def test_command_line_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastmaml", "info"], capture_output=True, text=True, check=True
    )
    assert fastmaml.__version__ in done.stdout


def test_types_are_installed() -> None:
    package = Path(fastmaml.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_C.pyi").exists()


# --- what the build says when the machine lacks something -----------------------------------------


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., str]:
    """Configures a fresh build tree with a given PATH and settings; returns its complaint.

    Or, where it `succeeds`, all that it said.
    """
    cmake, ninja = tool("cmake"), tool("ninja")

    def call(*settings: str, path: str, succeeds: bool = False, **environment: str) -> str:
        command = [cmake, "-S", str(ROOT), "-B", str(tmp_path / "tree"), "-G", "Ninja"]
        command += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
        done = subprocess.run(
            [*command, *settings],
            env={"PATH": path, "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return done.stdout if succeeds else sentence(done.stderr)

    return call


def test_missing_compiler(configure: Callable[..., str], tmp_path: Path) -> None:
    assert configure(path=str(tmp_path)) == (
        "fastmaml: no working C++ compiler was found; install GCC 11 or Clang 14 or newer "
        "(Debian: apt install g++), or name one in the variable CXX."
    )


@pytest.mark.parametrize(
    ("identity", "name", "minimum", "version"),
    [("GNU", "GCC", 11, "10.2.0"), ("Clang", "Clang", 14, "13.0.1")],
)
def test_old_compiler(
    configure: Callable[..., str], identity: str, name: str, minimum: int, version: str
) -> None:
    said = configure(
        f"-DCMAKE_CXX_COMPILER_ID={identity}",
        f"-DCMAKE_CXX_COMPILER_VERSION={version}",
        "-DCMAKE_CXX_COMPILER_ID_RUN=1",
        "-DCMAKE_CXX_COMPILER_FORCED=1",
        path=os.environ["PATH"],
    )
    assert said.startswith(f"fastmaml: {name} must be {minimum} or newer, ")
    assert said.endswith(f" is {version}; name another compiler in the variable CXX.")


def test_missing_python_headers(configure: Callable[..., str], tmp_path: Path) -> None:
    said = configure(f"-DPython_INCLUDE_DIR={tmp_path}", path=os.environ["PATH"])
    assert said.startswith("fastmaml: the C headers (Python.h) of Python 3.")
    assert said.endswith("were not found; install them (Debian: apt install python3-dev).")


def test_missing_pybind11(configure: Callable[..., str]) -> None:
    said = configure("-DCMAKE_DISABLE_FIND_PACKAGE_pybind11=ON", path=os.environ["PATH"])
    assert said.startswith("fastmaml: pybind11 2.13 or newer was not found; run `pip install")


NO_NVCC = "-DCMAKE_CUDA_COMPILER=NOTFOUND"  # what CMake writes down where it finds none


def test_cuda_without_nvcc(configure: Callable[..., str]) -> None:
    assert configure("-DFASTMAML_CUDA=ON", NO_NVCC, path=os.environ["PATH"]) == (
        "fastmaml: FASTMAML_CUDA=ON needs nvcc, which was not found; install the CUDA toolkit 12 "
        "or newer, name nvcc in the variable CUDACXX, or pass -DFASTMAML_CUDA=OFF."
    )


def test_cuda_of_no_known_kind(configure: Callable[..., str]) -> None:
    assert configure("-DFASTMAML_CUDA=MAYBE", path=os.environ["PATH"]) == (
        "fastmaml: FASTMAML_CUDA must be AUTO, ON or OFF, got MAYBE."
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["-DFASTMAML_CUDA=OFF"], "as FASTMAML_CUDA=OFF asks for"),
        (["-DFASTMAML_CUDA=AUTO", NO_NVCC], "as nvcc was not found"),
    ],
)
def test_cuda_is_left_out(configure: Callable[..., str], settings: list[str], reason: str) -> None:
    settings = [*settings, "-DFASTMAML_BUILD_MODULE=OFF"]
    said = configure(*settings, path=os.environ["PATH"], succeeds=True)
    assert f"fastmaml: built without CUDA, {reason}" in said


@pytest.mark.parametrize(
    ("asked", "codes"),
    [
        ("80", "compute_80,sm_80"),
        ("80;90", "compute_80,sm_80,sm_90"),
        ("all", "compute_80,sm_80,sm_86,sm_89,sm_90"),
    ],
)
def test_cuda_architectures(configure: Callable[..., str], asked: str, codes: str) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed; it comes with the CUDA toolkit")
    said = configure(
        *("-DFASTMAML_CUDA=ON", f"-DFASTMAML_CUDA_ARCHITECTURES={asked}"),
        *("-DFASTMAML_BUILD_MODULE=OFF",),
        path=os.environ["PATH"],
        succeeds=True,
    )
    assert f"fastmaml: built with CUDA: {codes}" in said


def test_old_cuda_architecture(configure: Callable[..., str]) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed; it comes with the CUDA toolkit")
    settings = ("-DFASTMAML_CUDA=ON", "-DFASTMAML_CUDA_ARCHITECTURES=75;80")
    said = configure(*settings, "-DFASTMAML_BUILD_MODULE=OFF", path=os.environ["PATH"])
    assert said == (
        "fastmaml: FASTMAML_CUDA_ARCHITECTURES must be all or compute capabilities from 80, "
        "such as 80;90, got 75;80."
    )


@pytest.fixture
def build_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The names of setup.py on a machine without any tool."""
    pytest.importorskip("setuptools")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    return runpy.run_path(str(ROOT / "setup.py"), run_name="not_main")


@pytest.mark.parametrize("name", ["cmake", "ninja"])
def test_missing_build_tool(build_script: dict[str, Any], name: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        build_script["find_tool"](name)
    assert stop.value.code == (
        f"fastmaml: building needs {name}, which is neither in {tmp_path} nor on PATH; "
        f"run `pip install {name}`, or install with pip's build isolation, which brings it."
    )


def test_failed_step_says_which(build_script: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match=r"^fastmaml: compiling failed with status 3; "):
        build_script["run"]("compiling", sys.executable, "-c", "raise SystemExit(3)")


# --- the kernels and the wheel --------------------------------------------------------------------


class CleanBuild(NamedTuple):
    """A wheel, made without CUDA from a checkout with nothing built; the build tree stays in it."""

    checkout: Path
    wheel: Path
    seconds: float  # of processors


@pytest.fixture(scope="module")
def clean_build(tmp_path_factory: pytest.TempPathFactory) -> CleanBuild:
    """What pip makes of the sources, beside CUDA's kernels, which take minutes."""
    folder = tmp_path_factory.mktemp("clean")
    checkout = folder / "checkout"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "fastmaml"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(checkout)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(build, check=True, env={**os.environ, "CMAKE_ARGS": "-DFASTMAML_CUDA=OFF"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (wheel,) = folder.glob("*.whl")
    return CleanBuild(checkout, wheel, after.ru_utime - before.ru_utime)


@pytest.mark.slow
@pytest.mark.alone
def test_kernels_share_no_code_between_instruction_sets(clean_build: CleanBuild) -> None:
    """The linker keeps one copy of an inline function: none may come out of a kernel object.

    It would be the copy of one instruction set, called on machines that lack it.
    """
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not installed")
    objects = sorted(clean_build.checkout.glob("build/*/CMakeFiles/kernels_*.dir/**/*.o"))
    assert objects
    for path in objects:
        isa = re.search(r"kernels_(\w+)\.dir", str(path))
        assert isa is not None
        listing = subprocess.run([nm, "-C", path], capture_output=True, text=True, check=True)
        shared = re.findall(r"^\S+ W (.*)$", listing.stdout, re.MULTILINE)
        assert [symbol for symbol in shared if f"::{isa[1]}::" not in symbol] == []


@pytest.mark.slow
@pytest.mark.alone
def test_wheel(clean_build: CleanBuild, tmp_path: Path) -> None:
    """A clean build is fast, the wheel is small, and it runs where there is no compiler."""
    assert clean_build.seconds <= BUILD_BUDGET_SECONDS
    assert clean_build.wheel.stat().st_size < WHEEL_BUDGET_BYTES
    elsewhere = tmp_path / "elsewhere"
    with zipfile.ZipFile(clean_build.wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(elsewhere)
    assert {"fastmaml/py.typed", "fastmaml/_C.pyi"} <= names
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {name for name in names if name.endswith(".so")} == {f"fastmaml/_C{suffix}"}
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastmaml"}

    program = "import fastmaml; print(fastmaml.__file__); print(fastmaml._C.device_absence())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=elsewhere,
        env={"PATH": "", "PYTHONPATH": str(elsewhere), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    place, absence = done.stdout.splitlines()
    assert Path(place).is_relative_to(elsewhere)
    assert absence.startswith("this build has no CUDA; ")
