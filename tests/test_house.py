"""The rules of the house that a machine can see: budgets, one version, who may include whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_BUDGET = 400
FUNCTION_BUDGET = 60
PUBLIC_HEADER_BUDGET = 150
CXX_SUFFIXES = {".hpp", ".cpp", ".cuh", ".cu"}


def files(*folders: str, suffixes: Iterable[str]) -> list[Path]:
    """Source files under the folders, sorted; generated trees have no place in them."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in found if path.suffix in set(suffixes))


def python_files() -> list[Path]:
    folders = ("fastmaml", "tests", "benchmarks", "docs")
    return [ROOT / "setup.py", *files(*folders, suffixes={".py", ".pyi"})]


def cxx_files() -> list[Path]:
    return files("csrc", "tests/core", "tests/simt", suffixes=CXX_SUFFIXES)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- function lengths -----------------------------------------------------------------------------


def python_functions(source: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, lines) of every function; its docstring does not count as code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node, clean=False) is not None:
                lines -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.name, node.lineno, lines


def without_text(source: str) -> str:
    """C++ source with comments, literals and preprocessor lines blanked; line numbers stay."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'
        r"(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*",
        re.DOTALL | re.MULTILINE,
    )
    return pattern.sub(lambda match: "\n" * match[0].count("\n"), source)


# Between the parameter list and the body: qualifiers, a trailing return type, member initialisers.
FUNCTION_HEAD = re.compile(
    r"([~\w]+|operator\s*\S+)\s*\(.*\)\s*"
    r"(const|noexcept|override|final|mutable|&|\s)*(->[^=;]+)?(:[^;]*)?$",
    re.DOTALL,
)
NOT_A_FUNCTION = re.compile(r"^\s*(namespace|class|struct|union|enum|extern)\b|=\s*$")


def cxx_functions(source: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, lines) of every function body outside other functions, by its braces."""
    depth, head_start, line = 0, 0, 1
    function: tuple[str, int, int] | None = None  # name, first line, depth of its brace
    text = without_text(source)
    for at, char in enumerate(text):
        line += char == "\n"
        if char == "{":
            head = re.sub(r"^\s*template\s*<[^{;]*?>\s*(?=[\w\[])", "", text[head_start:at])
            match = FUNCTION_HEAD.search(head)
            if function is None and match and not NOT_A_FUNCTION.search(head):
                function = (match[1], line - head.strip().count("\n"), depth)
            depth += 1
        elif char == "}":
            depth -= 1
            if function is not None and depth == function[2]:
                yield function[0], function[1], line - function[1] + 1
                function = None
        if char in "{};":
            head_start = at + 1


# --- the rules ------------------------------------------------------------------------------------


def test_files_within_budget() -> None:
    lengths = {name(p): len(p.read_text().splitlines()) for p in python_files() + cxx_files()}
    assert {path: n for path, n in lengths.items() if n > FILE_BUDGET} == {}
    assert lengths["csrc/fastmaml.hpp"] <= PUBLIC_HEADER_BUDGET


def test_functions_within_budget() -> None:
    long = [
        f"{name(path)}:{first} {function} has {lines} lines"
        for paths, functions in ((python_files(), python_functions), (cxx_files(), cxx_functions))
        for path in paths
        for function, first, lines in functions(path.read_text())
        if lines > FUNCTION_BUDGET
    ]
    assert long == []


def test_cxx_functions_are_found() -> None:
    source = """
    namespace a { struct S { int x = 0; S(int y)
        : x(y) {} int get() const { if (x) { return 1; } return x; } };
    constexpr int kTable[] = {1, 2};  // f() {
    template <class T, int N = 3> auto apply(T f) -> decltype(f()) {
      auto g = [&](int i) { return f(i); };
      for (int i = 0; i < N; ++i) { g(1'000); }
    } }
    """
    assert [(f, lines) for f, _, lines in cxx_functions(source)] == [
        ("S", 2),
        ("get", 1),
        ("apply", 4),
    ]


def test_nothing_is_left_open() -> None:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    found = [name(p) for p in python_files() + cxx_files() if words.search(p.read_text())]
    assert found == []


def test_version_stands_in_one_place() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    code = [ROOT / "CMakeLists.txt", ROOT / "Makefile", *python_files(), *cxx_files()]
    assert [name(path) for path in code if f'"{stated[1]}"' in path.read_text()] == []
    newest = re.search(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == stated[1]


def test_core_includes_no_python_and_no_torch() -> None:
    foreign = re.compile(r'#include\s*[<"](Python\.h|pybind11|torch|ATen|c10)', re.MULTILINE)
    core = [p for p in cxx_files() if (ROOT / "csrc/bindings") not in p.parents]
    assert [name(path) for path in core if foreign.search(path.read_text())] == []


def test_the_planner_knows_no_executor() -> None:
    above = re.compile(r'#include "(cpu|cuda|engine|bindings|simt)/')
    planner = files("csrc/plan", suffixes=CXX_SUFFIXES)
    assert planner
    assert not [name(path) for path in planner if above.search(path.read_text())]


def test_one_door_to_the_extension() -> None:
    door = re.compile(r"^\s*(from fastmaml import .*\b_C\b|import fastmaml\._C|from \. import _C)")
    importers = {
        name(path)
        for path in files("fastmaml", suffixes={".py"})
        if any(door.match(line) for line in path.read_text().splitlines())
    }
    assert importers == {"fastmaml/engine/core.py"}


def test_builds_for_any_machine() -> None:
    for path in (ROOT / "CMakeLists.txt", ROOT / "setup.py", ROOT / "Makefile"):
        flags = re.sub(r"#.*", "", path.read_text())
        assert "-march=native" not in flags
        assert "-ffast-math" not in flags


def test_every_op_folder_has_its_card_and_its_kernel_is_compiled() -> None:
    ops = ROOT / "csrc/ops"
    listed = re.findall(r"FASTMAML_OP_FILE\((\w+)\)\n", (ops / "list.hpp").read_text())
    shared = {"window"}  # what several ops are made of
    for op in sorted({path.name for path in ops.iterdir() if path.is_dir()} - shared):
        assert (ops / op / f"{op}.hpp").exists(), f"csrc/ops/{op} has no card {op}.hpp"
        has_kernel = (ops / op / f"{op}_cpu.hpp").exists()
        assert has_kernel == (ops / op / f"{op}_cuda.cuh").exists(), f"{op} has one kernel of two"
        assert has_kernel == (op in listed), f"{op} is not where csrc/ops/list.hpp has kernels"
