"""Long runs and odd callers: threads, forks, memory, and whatever a fuzzer thinks of."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from forced import Thread
from hypothesis import given, settings
from hypothesis import strategies as st
from small import gradients
from torch import Tensor, nn

import fastmaml
from fastmaml.definition import derivatives
from fastmaml.engine import plan


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 33), nn.ReLU(), nn.Linear(33, 33), nn.ReLU(), nn.Linear(33, 3)
    )


def tasks(seed: int, count: int = 16) -> Any:
    g = torch.Generator().manual_seed(seed)
    return tuple(
        (torch.randn(count, 5, 4, generator=g), torch.randint(3, (count, 5), generator=g))
        for _ in range(2)
    )


def step(seed: int, model: nn.Module | None = None) -> list[torch.Tensor]:
    torch.set_num_threads(2)
    model = model or net()
    fastmaml.meta_step(model, *tasks(seed, 64), inner_steps=2, backend="fused")
    return gradients(model)


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_several_python_threads_at_once() -> None:
    expected = [step(seed) for seed in range(4)]
    wrong: list[int] = []

    models = [net() for _ in range(4)]

    def work(seed: int) -> None:
        for _ in range(20):
            models[seed].zero_grad()
            if not equal(step(seed, models[seed]), expected[seed]):
                wrong.append(seed)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_model_in_several_threads() -> None:
    model = net()
    torch.set_num_threads(2)
    expected = fastmaml.adapt(model, tasks(0)[0], inner_steps=3).parameters
    wrong = []

    def work() -> None:
        for _ in range(20):
            found = fastmaml.adapt(model, tasks(0)[0], inner_steps=3).parameters
            wrong.extend(n for n, t in found.items() if not torch.equal(t, expected[n]))

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _child(queue: Any) -> None:
    queue.put([grad.tolist() for grad in step(3)])


def fork_and_compare() -> None:
    """As data loaders do: the child has none of the parent's worker threads."""
    expected = [grad.tolist() for grad in step(3)]
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        queue = context.Queue()
        child = context.Process(target=_child, args=(queue,))
        child.start()
        assert queue.get(timeout=60) == expected
        child.join(timeout=60)
        assert child.exitcode == 0
    assert [grad.tolist() for grad in step(3)] == expected


def test_fork_after_use() -> None:
    """In a process of its own: other libraries' threads in this one may not survive a fork."""
    code = "import test_engine_runs; test_engine_runs.fork_and_compare()"
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, timeout=200)


class Attends(nn.Module):
    """Torch's kernel of it cannot be derived twice: a switch of the process's is turned."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, None]
        return self.layer(F.scaled_dot_product_attention(x, x, self.layer.weight[0] * x)[:, 0, 0])  # type: ignore[no-any-return]


def _in_torch(queue: Any) -> None:
    model = Attends()
    fastmaml.meta_step(model, *tasks(3), backend="reference")
    queue.put([p.grad.tolist() for p in model.parameters()])


def fork_while_locked() -> None:
    """What another thread has locked when a process is forked, nobody unlocks in the child."""
    torch.set_num_threads(1)  # torch's own threads would not come along
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with plan._LOCK, derivatives._LOCK:
            taken.set()
            done.wait()

    holder = Thread(target=hold)
    holder.start()
    taken.wait()
    context = multiprocessing.get_context("fork")
    try:
        for target in (_child, _in_torch):
            queue = context.Queue()
            child = context.Process(target=target, args=(queue,))
            child.start()
            assert queue.get(timeout=60)
            child.join(timeout=60)
            assert child.exitcode == 0
    finally:
        done.set()
        holder.join()


def test_fork_while_another_thread_holds_a_lock() -> None:
    code = "import test_engine_runs; test_engine_runs.fork_while_locked()"
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, timeout=200)


def test_memory_is_flat_over_changing_shapes() -> None:
    """Plans and workspaces of shapes that do not come back are let go."""
    torch.set_num_threads(2)
    model = net()

    def run(start: int) -> int:
        for rows in range(start, start + 150):
            x, y = torch.randn(4, rows, 4), torch.randint(3, (4, rows))
            fastmaml.meta_step(model, (x, y), (x, y))
            model.zero_grad()
        return int(psutil.Process(os.getpid()).memory_info().rss)

    warm = run(1)
    assert run(1) - warm < 4 * 2**20


def test_models_are_let_go() -> None:
    for extra in (nn.ReLU(), nn.Softmax(-1)):
        model = nn.Sequential(nn.Linear(4, 3), extra)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fastmaml.meta_step(model, *tasks(0))
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None


def test_memory_is_flat_over_a_thousand_calls() -> None:
    torch.set_num_threads(2)
    model, data = net(), tasks(0, 64)

    def run(calls: int) -> int:
        for _ in range(calls):
            fastmaml.meta_step(model, *data, inner_steps=2)
            model.zero_grad()
        return int(psutil.Process(os.getpid()).memory_info().rss)

    warm = run(200)
    assert run(1000) - warm < 2**20


@settings(max_examples=150)
@given(st.data())
def test_no_input_crashes(data: st.DataObject) -> None:
    """Any shapes, dtypes and settings: a result, or one of our exceptions."""
    sizes = st.integers(0, 4)
    dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64])
    shapes = st.lists(sizes, min_size=0, max_size=4)

    def tensor() -> torch.Tensor:
        shape, dtype = data.draw(shapes), data.draw(dtypes)
        made = torch.randint(-1, 4, tuple(shape)).to(dtype)
        return made if dtype is torch.int64 or data.draw(st.booleans()) else made * float("inf")

    def pair() -> Any:
        if data.draw(st.integers(0, 9)) == 0:
            return data.draw(st.sampled_from([None, 3, [], (1, 2), "xy", torch.ones(2, 3)]))
        if data.draw(st.booleans()):
            t, n, f = data.draw(sizes), data.draw(sizes), data.draw(sizes)
            return torch.randn(t, n, f), torch.randint(0, 3, (t, n))
        return tensor(), tensor()

    width = data.draw(st.integers(1, 4))
    layers: list[nn.Module] = [nn.Linear(width, 3)]
    if data.draw(st.booleans()):
        layers.insert(0, nn.BatchNorm1d(width))
    model = nn.Sequential(*layers)
    said = "meta_step: "
    try:
        fastmaml.meta_step(
            model,
            pair(),
            pair(),
            loss=data.draw(st.sampled_from(["mse", "cross_entropy", "bce_with_logits", "no", 3])),
            inner_lr=data.draw(st.sampled_from([0.1, 0, -1.0, float("nan"), "x", None, 1e30])),
            inner_steps=data.draw(st.sampled_from([0, 1, 3, -1, 1.5, True, None])),
            first_order=data.draw(st.sampled_from([True, False, 1])),
            backend="fused",
        )
    except (
        fastmaml.ShapeError,
        fastmaml.DtypeError,
        fastmaml.SettingError,
        fastmaml.UnsupportedModelError,
    ) as error:
        said = str(error)
    assert said.startswith("meta_step: ")
    assert said == "meta_step: " or all(p.grad is None for p in model.parameters())
