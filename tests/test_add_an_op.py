"""What an op costs: a folder, and one place in each of five files. group_norm shows it.

Whoever adds an op edits what stands here and in CONTRIBUTING.md, and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = {
    "csrc/ops/group_norm/group_norm.hpp",
    "csrc/ops/group_norm/group_norm.cpp",
    "csrc/ops/group_norm/group_norm_cpu.hpp",
    "csrc/ops/group_norm/group_norm_cuda.cuh",
}
PLACES = {
    "csrc/ops/list.hpp",
    "fastmaml/tracing/norms.py",
    "tests/op_cases_norms.py",
    "benchmarks/test_ops_bench.py",
    "docs/layers.md",
}
# Claims about this op that an op need not have: the bytes that it moves, and a hard case.
CLAIMS = {"tests/test_device_cost.py", "tests/test_trust_gradients.py"}
TOLD = {"CONTRIBUTING.md", "tests/test_add_an_op.py"}

# The engine's op, its class, arguments and files; not torch's function and layer.
NAME = re.compile(r"(?<!\bF\.)(?<!\bnn\.)(?<!\btorch\.)\b(group_norm\w*|GroupNorm(Args)?)\b")
TEXT = {".py", ".pyi", ".hpp", ".cpp", ".cuh", ".cu", ".h", ".md", ".txt", ".toml", ".yml"}


def texts() -> list[Path]:
    """Sources, tests, benchmarks and pages."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in ("csrc", "fastmaml", "tests", "benchmarks", "docs"):
        found += (ROOT / folder).rglob("*")
    return [path for path in found if path.suffix in TEXT]


def test_an_op_is_named_in_its_folder_and_five_places() -> None:
    named = {path.relative_to(ROOT).as_posix() for path in texts() if NAME.search(path.read_text())}
    assert named - CLAIMS - TOLD == FOLDER | PLACES
    assert named >= CLAIMS | TOLD


def test_the_folder_is_all_there() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc/ops/group_norm").iterdir()}
    assert files == FOLDER


def test_contributing_shows_these_files() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page[page.index("## Add an op") :]
    section = section[: section.index("\n## ")]
    assert set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == FOLDER | PLACES


def test_a_list_names_it_twice() -> None:
    """Its folder, for cards and kernels, and its class, for registry and arguments."""
    assert len(NAME.findall((ROOT / "csrc/ops/list.hpp").read_text())) == 2
