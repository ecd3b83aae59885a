"""Whatever the arguments, the interpreter survives, and a call returns or refuses in a sentence."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def outcomes(kind: str, first: int, count: int) -> Counter[str]:
    """How many cases came to what, in a process of its own; a crash fails with the seed."""
    program = [sys.executable, "-X", "faulthandler", str(HERE / "argument_fuzz.py")]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*program, kind, str(first), str(first + count)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"seed {lines[-1:]}: {done.stderr[-2000:]}"
    wrong = [line for line in lines[:-1] if not line.isdigit()]
    assert not wrong, wrong[:20]
    return Counter(ast.literal_eval(lines[-1]))


def test_calls() -> None:
    came = outcomes("calls", 0, 1200)
    assert came["raised"] > 300
    assert came["returned"] > 100
    assert came["compared"] > 10


def test_the_compiled_module() -> None:
    came = outcomes("binding", 0, 600)
    assert came["raised"] > 100
    assert came["returned"] > 100


# FASTMAML_FUZZ_PARTS=10 makes 100,000 tuples of them, in half an hour.
PARTS = int(os.environ.get("FASTMAML_FUZZ_PARTS", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_calls(part: int) -> None:
    outcomes("calls", 100_000 + 9_000 * part, 9_000)
    outcomes("binding", 100_000 + 1_000 * part, 1_000)
