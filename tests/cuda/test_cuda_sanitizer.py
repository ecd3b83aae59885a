"""NVIDIA's compute-sanitizer over the device code of every op, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sanitized
from op_cases import CASES, LOSSES
from place import Place

pytestmark = pytest.mark.cuda

SCRIPT = Path(sanitized.__file__)


def test_what_the_sanitizer_runs(place: Place) -> None:
    assert sanitized.run(place) == 4 * (len(CASES) + len(LOSSES))


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool: str, gpu: Place) -> None:
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    done = subprocess.run(
        [program, "--tool", tool, "--error-exitcode", "9", sys.executable, str(SCRIPT)],
        # Every tensor an allocation of its own, so that a step beyond one is seen.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
