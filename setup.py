"""Builds `fastmaml._C`: setuptools asks, CMake and Ninja build; the rest is in pyproject.toml.

No torch is needed, not even to build: the extension sees raw pointers only. The build tree is kept
in `build/<platform>-<python>`, so that a second build compiles only what changed.

Environment: `CXX`, `CXXFLAGS`, `CMAKE_ARGS` (as in `CMAKE_ARGS=-DFASTMAML_WERROR=ON`) and
`CMAKE_BUILD_PARALLEL_LEVEL` mean what they mean to CMake.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_tool(name: str) -> str:
    """The path of a build tool: beside this Python first, as its environment may not be on PATH."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(name, path=scripts) or shutil.which(name)
    if found is None:
        raise SystemExit(
            f"fastmaml: building needs {name}, which is neither in {scripts} nor on PATH; "
            f"run `pip install {name}`, or install with pip's build isolation, which brings it."
        )
    return found


def run(step: str, *command: str) -> None:
    """Runs one command of the build; its own message stays the last thing said before ours."""
    sys.stdout.flush()
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise SystemExit(f"fastmaml: {step} failed with status {status}; the reason stands above.")


def build_tree() -> Path:
    """The folder CMake builds in, emptied when what its cache was made from has changed."""
    tree = ROOT / "build" / f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    variables = ("CXX", "CXXFLAGS", "LDFLAGS", "CMAKE_ARGS")
    made_from = "\n".join([str(ROOT), sys.executable, *(os.environ.get(v, "") for v in variables)])
    stamp = tree / "made_from.txt"
    if tree.exists() and not (stamp.exists() and stamp.read_text() == made_from):
        shutil.rmtree(tree)
    tree.mkdir(parents=True, exist_ok=True)
    stamp.write_text(made_from)
    return tree


def jobs() -> int:
    """How many compilers run at once: as many as processors are allowed, unless CMake was told."""
    told = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL")
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    return int(told) if told else len(allowed(0))


class CMakeBuild(build_ext):
    """Builds the one extension with CMake and installs it where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        """Configures, builds and installs `fastmaml._C`."""
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        import pybind11  # a build requirement: absent when setup.py is read for metadata only

        tree = build_tree()
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": ninja,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        run(
            "configuring the build",
            *(cmake, "-S", str(ROOT), "-B", str(tree), "-G", "Ninja"),
            *(f"-D{name}={value}" for name, value in settings.items()),
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        )
        run("compiling", cmake, "--build", str(tree), "--parallel", str(jobs()))
        prefix = Path(self.get_ext_fullpath(ext.name)).resolve().parent.parent
        run("installing", cmake, "--install", str(tree), "--prefix", str(prefix), "--strip")


if __name__ == "__main__":
    setup(ext_modules=[Extension("fastmaml._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
