"""What all tests share: seeds, threads, the data folder and hypothesis's profile."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from forced import Force, forced

import fastmaml
from fastmaml.engine import binding

# The same examples on every run: a red test is red for everyone, and stays so until it is mended.
hypothesis.settings.register_profile("fastmaml", deadline=None, derandomize=True, database=None)
# Other examples, for a look around: --hypothesis-profile explore --hypothesis-seed 1.
hypothesis.settings.register_profile("explore", deadline=None, database=None)
hypothesis.settings.load_profile("fastmaml")

THREADS = 1
SEED = 20170809
# Files whose tests share what is made once for a process, and takes minutes.
IN_ONE_PROCESS = ("tests/test_nvcc.py",)


def pytest_configure() -> None:
    """Let Ctrl-C interrupt, which a shell's background jobs ignore: tests send it to themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Several processes take test by test, the longest file whole and first.

    By the tests' names: xdist puts the groups of its own marker into names that pytest 9.2 ignores.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class Scheduling(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if path in IN_ONE_PROCESS else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator before each test, and say with what."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - for code under test that draws from the global generator
    torch.manual_seed(SEED)
    return SEED


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread whatever the machine has; tests of the engine ask for more themselves.

    They then get them, on any machine: small calls would be over before others had joined.
    """
    monkeypatch.setattr(binding, "usable_processors", lambda: 64)
    torch.set_num_threads(THREADS)
    with forced(all_threads=True):
        yield
    torch.set_num_threads(THREADS)
    fastmaml.set_num_threads(None)


@pytest.fixture
def force() -> Iterator[Force]:
    """`forced`, until the test ends."""
    with ExitStack() as stack:
        yield lambda **changed: stack.enter_context(forced(**changed))


@pytest.fixture
def float64() -> Iterator[None]:
    """New tensors and models in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder that holds ``omniglot/`` and ``cifar_fs/``; skips where there is none."""
    folder = os.environ.get("FASTMAML_DATA", "")
    if not folder:
        pytest.skip("FASTMAML_DATA does not name the folder that holds omniglot/ and cifar_fs/")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"FASTMAML_DATA names {folder}, which is not a folder")
    return path
