"""The number of threads: what is asked for and may be used, and results that do not care."""

from __future__ import annotations

import copy
import os
import statistics
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from forced import Force, Thread
from torch import Tensor, nn

import fastmaml
from fastmaml.errors import SettingError


@pytest.fixture(autouse=True)
def _as_users_have_it(force: Force) -> None:
    """Calls that wait for nobody."""
    force(all_threads=False)


def sinusoid() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    model = nn.Sequential(
        nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
    )
    return model, [(x, torch.sin(x)) for x in (torch.randn(25, 10, 1), torch.randn(25, 10, 1))]


def images(tasks: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A network whose threads share a task where there is one only."""
    model = nn.Sequential(
        nn.Conv2d(2, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24 * 144, 1),
    )
    x = torch.randn(2, tasks, 10, 2, 12, 12)
    return model, [(part, part.mean((2, 3, 4)).unsqueeze(-1)) for part in x]


def gradient(model: nn.Module, pairs: list[tuple[Tensor, Tensor]], steps: int = 1) -> Tensor:
    model.zero_grad()
    fastmaml.meta_step(model, *pairs, loss="mse", inner_lr=0.01, inner_steps=steps, backend="fused")
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_torchs_number_is_followed_until_another_is_set() -> None:
    torch.set_num_threads(3)
    assert fastmaml.get_num_threads() == 3
    fastmaml.set_num_threads(2)
    assert fastmaml.get_num_threads() == 2
    assert torch.get_num_threads() == 3
    model, pairs = images(1)
    assert "at most 2 threads" in fastmaml.describe(model, *pairs, loss="mse")
    fastmaml.set_num_threads(None)
    assert fastmaml.get_num_threads() == 3


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "set_num_threads: number must be at least 1, got 0."),
        (-2, "set_num_threads: number must be at least 1, got -2."),
        (1.5, "set_num_threads: number must be an integer >= 1, got 1.5; pass an int."),
        (True, "set_num_threads: number must be an integer >= 1, got True; pass an int."),
    ],
)
def test_bad_numbers_are_named_and_change_nothing(number: int, text: str) -> None:
    fastmaml.set_num_threads(2)
    with pytest.raises(SettingError) as raised:
        fastmaml.set_num_threads(number)
    assert str(raised.value) == text
    assert fastmaml.get_num_threads() == 2


def test_no_more_threads_than_the_process_may_keep_busy() -> None:
    """Affinity is honoured, also when it changes under a running process."""
    program = """
        import os, torch, fastmaml
        torch.set_num_threads(8)
        print(fastmaml.get_num_threads() <= len(os.sched_getaffinity(0)))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(fastmaml.get_num_threads())
        fastmaml.set_num_threads(4)
        print(fastmaml.get_num_threads())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert ran.stdout.split() == ["True", "1", "1"]


@pytest.mark.parametrize("make", [sinusoid, lambda: images(1), lambda: images(5)])
def test_bits_are_the_same_whoever_comes_in_time(make: object) -> None:
    """Calls one after another, with pauses in which the workers fall asleep, or none."""
    assert callable(make)
    model, pairs = make()
    expected = gradient(model, pairs, steps=2)
    for number in (2, 3, 5):
        fastmaml.set_num_threads(number)
        for call in range(30):
            if call % 3 == 0:
                threading.Event().wait(0.001)
            assert torch.equal(gradient(model, pairs, steps=2), expected)


LOAD = "while True: pass"
CALLERS, CALLS = 8, 1250


@pytest.mark.slow
def test_many_callers_on_a_busy_machine() -> None:
    """10,000 calls of 4 models from 8 threads beside busy processes: bits, memory, and an end."""
    psutil = pytest.importorskip("psutil")
    fastmaml.set_num_threads(4)
    cases = [sinusoid(), images(1), images(3), sinusoid()]
    expected = [gradient(*case) for case in cases]
    wrong: list[int] = []
    resident: list[int] = []

    def caller(index: int) -> None:
        # .grad belongs to a model: every caller has its own, of the same numbers.
        own = [(copy.deepcopy(model), pairs) for model, pairs in cases]
        for call in range(CALLS):
            which = (index + call) % len(own)
            if not torch.equal(gradient(*own[which]), expected[which]):
                wrong.append(call)

    load = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(2)]
    try:
        callers = [Thread(target=caller, args=(i,)) for i in range(CALLERS)]
        for thread in callers:
            thread.start()
        deadline = time.monotonic() + 900
        while any(thread.is_alive() for thread in callers):
            assert time.monotonic() < deadline, "a call hangs"
            resident.append(psutil.Process().memory_info().rss)
            time.sleep(0.1)
    finally:
        for process in load:
            process.kill()
            process.wait()
    assert not wrong
    # Callers' workspaces come and go: what counts is that later calls do not need more of them.
    third = len(resident) // 3
    middle, last = statistics.median(resident[third : 2 * third]), resident[2 * third :]
    assert statistics.median(last) - middle < 32 << 20, [r >> 20 for r in resident]
