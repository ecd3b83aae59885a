"""What the host executor catches: kernels with a defect each (tests/simt), and their twins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import pytest
from device_code import ORDERS, load

from fastmaml import BackendError

MODULES = ["_simt", "_simt_checked"]


class Defect(NamedTuple):
    """How a kernel is caught: by a text that matches, by its values, or not at all."""

    name: str
    plain: str = ""  # in the module _simt
    checked: str = ""  # in _simt_checked


VALUES = "values"
LINE = r"\S*/(planted\.cu|device\.cuh):\d+( from \S*planted\.cu:\d+)*"
RACE = r"a race: thread \d+ of block \(0, 0\) (reads|writes) byte \d+ of shared memory at {line}.*"
BARRIER = r"which thread \d+ of block \(0, 0\) (read|wrote) at {line}, with no barrier between"
SHARED_RACE = RACE + BARRIER
BLOCKS = r"a race: thread \d+ of block \((0|1), 0\) .*global memory \(byte \d+ of out\) at {line}.*"
BLOCKS += r"and blocks are not ordered"
NO_END = r"a block does not come to an end: thread \d+ waits at {line} for its %s"
DEFECTS = [
    Defect("missing_barrier", VALUES, SHARED_RACE),
    Defect("missing_trailing_barrier", VALUES, SHARED_RACE),
    Defect("missing_syncwarp", VALUES, SHARED_RACE),
    Defect("shuffle_for_syncwarp", "", SHARED_RACE),
    Defect("syncwarp_of_half", VALUES, SHARED_RACE),
    Defect("waited_but_no_barrier", VALUES, SHARED_RACE),
    Defect("bytes_of_one_word", VALUES, SHARED_RACE),
    Defect("two_blocks_write", VALUES, BLOCKS),
    Defect("reads_another_block", VALUES, BLOCKS),
    Defect("last_block_without_fence", "", BLOCKS),
    Defect("wrong_mask", *[NO_END % "warp"] * 2),
    Defect("lane_outside_mask", *["a warp operation whose mask leaves it out, at {line}"] * 2),
    Defect("divergent_barrier", *[NO_END % "block; .*128 of 256 threads have ended"] * 2),
    Defect("two_barriers", *["wait at different barriers: {line} and {line}"] * 2),
    Defect(
        "write_past_shared",
        "a block wrote past the end of a shared array, at byte 404 of one of 404",
        r"thread 101 writes 4 bytes at byte 404 of shared memory, outside every array.*{line}",
    ),
    Defect(
        "read_past_shared",
        VALUES,
        r"thread \d+ reads 4 bytes at byte 404 of shared memory, outside every array.*{line}",
    ),
    Defect("uninitialised_shared", VALUES, VALUES),
    Defect("unwaited_copy", VALUES, VALUES),
    Defect("too_many_pending", VALUES, VALUES),
    Defect(
        "write_past_output",
        "",
        r"thread 0 writes 4 bytes of global memory outside .* \(byte 4096 of out, .*{line}",
    ),
    Defect(
        "read_past_input",
        VALUES,
        r"thread 0 reads 4 bytes of global memory outside .* \(byte 4096 of in, .*{line}",
    ),
    Defect("write_to_input", "", "thread 9 writes 4 bytes of in, which is an input at {line}"),
    Defect("misaligned_target", *["copy of 16 bytes whose target is not aligned .* {line}"] * 2),
    Defect("misaligned_source", *["copy of 8 bytes whose source is not aligned .* {line}"] * 2),
    Defect("copy_of_shared", *["copy of 4 bytes whose source is not global memory, at {line}"] * 2),
    Defect(
        "more_shared_than_asked", *["take 16400 bytes of shared memory, asked for were 16384"] * 2
    ),
    Defect("too_much_shared", *["invalid configuration argument"] * 2),
    Defect("grid_beyond_limits", *["invalid configuration argument"] * 2),
]


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    found = load(request.param)
    assert found.simt.checked is (request.param == "_simt_checked")
    yield found
    found.simt.set_order(*ORDERS[0])


def outcomes(module: ModuleType, name: str, right: bool) -> list[list[float] | str]:
    """What each order gives: the kernel's output, or the text of its error."""
    found: list[list[float] | str] = []
    for order in ORDERS:
        module.simt.set_order(*order)
        try:
            found.append(module.simt.run_planted(name, right))
        except BackendError as error:
            found.append(str(error))
    return found


def test_every_planted_kernel_is_named_here(module: ModuleType) -> None:
    assert sorted(module.simt.planted()) == sorted(defect.name for defect in DEFECTS)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_right_kernels_pass(module: ModuleType, defect: Defect) -> None:
    first, *others = outcomes(module, defect.name, right=True)
    assert isinstance(first, list), first
    assert not any(map(math.isnan, first))
    assert any(first)
    assert others == [first] * len(others)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defects_are_caught(module: ModuleType, defect: Defect) -> None:
    expected = defect.checked if module.simt.checked else defect.plain
    wrong = outcomes(module, defect.name, right=False)
    right = outcomes(module, defect.name, right=True)[0]
    texts = [outcome for outcome in wrong if isinstance(outcome, str)]
    if expected == VALUES:
        assert texts == []
        assert any(repr(outcome) != repr(right) for outcome in wrong)
    elif expected == "":
        assert texts == []
    else:
        pattern = expected.replace("{line}", LINE)
        assert texts
        assert all(text.startswith("CUDA: a launch failed: ") for text in texts)
        assert [text for text in texts if not re.search(pattern, text, re.DOTALL)] == []


def test_races_are_found_in_every_order() -> None:
    """The checker needs no lucky order where nothing at all separates two accesses."""
    module = load("_simt_checked")
    for name in ("missing_barrier", "missing_syncwarp", "two_blocks_write", "bytes_of_one_word"):
        assert all("a race" in outcome for outcome in outcomes(module, name, right=False))


def test_a_block_that_was_stopped_leaves_nothing_behind(module: ModuleType) -> None:
    before = module.simt.run_planted("missing_trailing_barrier", right=True)
    for defect in DEFECTS:
        outcomes(module, defect.name, right=False)
    module.simt.set_order(*ORDERS[0])
    assert module.simt.run_planted("missing_trailing_barrier", right=True) == before


def test_fake_runtime(module: ModuleType) -> None:
    assert module.simt.runtime_failures() == []
