"""Programs are what they were: instructions, their order and shapes, and the workspace's bytes.

The golden texts are claims, not truths: a change that means to change programs writes them anew
with ``python tests/programs.py`` and says why.
"""

from __future__ import annotations

import pytest
from programs import GOLDEN, RANDOM, WHOLE, Program, programs

from benchmarks.workloads import WORKLOADS


@pytest.fixture(scope="module")
def found() -> dict[str, Program]:
    return {program.name: program for program in programs()}


def test_every_program_is_as_it_was(found: dict[str, Program]) -> None:
    lines = (GOLDEN / "programs.txt").read_text().splitlines()
    assert len(lines) == len(found) == 2 * len(WORKLOADS) + RANDOM
    changed = []
    for line in lines:
        name, instructions, workspace, digest = line.rsplit(" ", 3)
        program = found[name]
        if program.digest != digest or program.workspace_bytes != int(workspace):
            changed.append(f"{name}: {program.instructions} instructions, {instructions} before")
    assert not changed, "compare the texts of both commits: python tests/programs.py DIR"


@pytest.mark.parametrize("name", WHOLE)
def test_whole_texts(name: str, found: dict[str, Program]) -> None:
    assert found[name].text == (GOLDEN / f"{name}.txt").read_text()
