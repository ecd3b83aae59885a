"""Calls on a CUDA device: executors, streams, captured graphs, threads, memory that runs out.

The like of test_device_calls on what only a device has.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch
from forced import Force, Thread
from place import Place, truth
from small import gradients
from test_device_calls import MANY, NET, SETTINGS, model, wide, widest_resident
from tolerances import assert_close
from torch import Tensor, nn

import fastmaml

pytestmark = pytest.mark.cuda

EXECUTORS = {"cuda resident": (model, 0), "cuda graph": (wide, 0)}


def call(net: nn.Module, data: Any, **settings: Any) -> fastmaml.MetaStepResult:
    return fastmaml.meta_step(net, *data, backend="fused", **{**SETTINGS, **settings})


def call_for_grad(net: nn.Module, data: Any, **settings: Any) -> Tensor:
    net.zero_grad()
    call(net, data, **settings)
    return torch.cat(gradients(net))


def set_sync_mode(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that these modes are a prototype
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def synchronisation_is_an_error() -> Iterator[None]:
    set_sync_mode("error")
    try:
        yield
    finally:
        set_sync_mode("default")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_executor_that_is_described_runs(executor: str, place: Place) -> None:
    make, _ = EXECUTORS[executor]
    net, data = make().to(place.device), place.put(NET.data())
    text = fastmaml.describe(net, *data, **SETTINGS)
    result = call(net, data)
    assert result.executor == executor
    assert f"executor {executor}: 1 launch a call" in text
    assert_close(torch.cat(gradients(net)).cpu(), truth(make(), NET.data(), **SETTINGS), "meta_f64")


def test_the_widest_network_of_one_launch(place: Place) -> None:
    data = place.put(NET.data())
    net = widest_resident(
        lambda net: fastmaml.describe(net.to(place.device), *data, **SETTINGS)
    ).to(place.device)
    result = call(net, data)
    assert result.executor == "cuda resident"
    grad = torch.cat(gradients(net)).cpu()
    assert_close(grad, truth(net.cpu(), NET.data(), **SETTINGS), "meta_f64")


def test_executors_agree_bitwise(place: Place, force: Force) -> None:
    net, data = model().to(place.device), place.put(NET.data())
    resident = call_for_grad(net, data)
    force(team=MANY)
    assert call(net, data).executor == "cuda graph"
    assert torch.equal(resident, call_for_grad(net, data))


@pytest.mark.parametrize("make", [model, wide], ids=["small", "wide"])
def test_new_data_rates_and_weights_reach_a_graph(
    make: Callable[[], nn.Module], place: Place
) -> None:
    net = make().to(place.device)
    for rate in (0.02, 0.02, 0.005):
        host = [(torch.randn_like(x), torch.randn_like(y)) for x, y in NET.data()]
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.003)
        grad = call_for_grad(net, place.put(host), inner_lr=rate)
        options = {**SETTINGS, "inner_lr": rate}
        assert_close(grad.cpu(), truth(deepcopy(net).cpu(), host, **options), "meta_f64")


@pytest.mark.parametrize("make", [model, wide], ids=["small", "wide"])
def test_the_caller_can_capture_a_graph(make: Callable[[], nn.Module], gpu: Place) -> None:
    net, data = make().to(gpu.device), gpu.put(NET.data())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(net, data)
    torch.cuda.current_stream().wait_stream(side)
    net.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(net, data)
    assert result.executor == "cuda launches"
    for _ in range(2):
        host = [(torch.randn_like(x), torch.randn_like(y)) for x, y in NET.data()]
        for pair, new in zip(data, gpu.put(host), strict=True):
            for tensor, values in zip(pair, new, strict=True):
                tensor.copy_(values)
        graph.replay()
        expected = call_for_grad(deepcopy(net), data)
        assert torch.equal(torch.cat(gradients(net)), expected)
        assert result.loss.isfinite()


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_capture_without_a_call_before_it_is_refused(gpu: Place) -> None:
    net, data = model().to(gpu.device), gpu.put(NET.data())
    graph = torch.cuda.CUDAGraph()
    with (
        pytest.raises(fastmaml.BackendError, match="must have run once before"),
        torch.cuda.graph(graph),
    ):
        call(net, data)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_plan_may_go_while_the_caller_captures(gpu: Place) -> None:
    """Its own graph goes with it, which is no call that a capture allows by itself."""
    net, data = wide().to(gpu.device), gpu.put(NET.data())
    expected = call_for_grad(net, data).clone()
    other = nn.Sequential(nn.Linear(3, 200), nn.Linear(200, 200), nn.Linear(200, 2)).double()
    other.to(gpu.device)
    assert call(other, data).executor == "cuda graph"
    net.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        del other
        gc.collect()
        call(net, data)
    graph.replay()
    assert torch.equal(torch.cat(gradients(net)), expected)


@pytest.mark.parametrize("make", [model, wide], ids=["small", "wide"])
def test_calls_follow_the_current_stream(make: Callable[[], nn.Module], gpu: Place) -> None:
    net, data = make().to(gpu.device), gpu.put(NET.data())
    expected = call_for_grad(net, data).clone()
    slow = torch.randn(4096, 4096, device=gpu.device)
    torch.cuda.synchronize()
    grads = []
    for stream in (torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            # Data that come late on this stream: a call on any other would see zeros.
            late = tuple(tuple(torch.zeros_like(t) for t in pair) for pair in data)
            for _ in range(8):
                slow = (slow @ slow).clamp_(-1, 1)
            for pair, source in zip(late, data, strict=True):
                for tensor, values in zip(pair, source, strict=True):
                    tensor.copy_(values)
            grads.append(call_for_grad(deepcopy(net), late))
    torch.cuda.synchronize()
    assert all(torch.equal(grad, expected) for grad in grads)


@pytest.mark.parametrize("make", [model, wide], ids=["small", "wide"])
@pytest.mark.parametrize("on_device", [False, True], ids=["number", "tensor"])
def test_a_call_does_not_wait(make: Callable[[], nn.Module], on_device: bool, gpu: Place) -> None:
    net, data = make().to(gpu.device), gpu.put(NET.data())
    rate = torch.tensor(0.1, dtype=torch.float64, device=gpu.device) if on_device else 0.1
    call(net, data, inner_lr=rate)  # copies the plan's tables there
    with synchronisation_is_an_error():
        call(net, data, inner_lr=rate)
    classes = [(x, torch.randint(2, x.shape[:2], device=gpu.device)) for x, _ in data]
    call(net, classes, loss="cross_entropy")
    with synchronisation_is_an_error():
        call(net, classes, loss="cross_entropy")


def test_any_device_not_only_the_current_one(gpu: Place) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one CUDA device")
    expected = truth(model(), NET.data(), **SETTINGS)
    with torch.cuda.device(0):
        for index in (1, 0, 1):
            there = Place(torch.device("cuda", index))
            result, grad = there.step(model(), NET.data(), **SETTINGS)
            assert result.loss.device == there.device
            assert torch.cuda.current_device() == 0
            assert_close(grad, expected, "meta_f64")


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
def test_threads_do_not_disturb_each_other(shared: bool, gpu: Place) -> None:
    nets = [wide().to(gpu.device)] * 4 if shared else [wide().to(gpu.device) for _ in range(4)]
    data = [
        [(torch.randn_like(x), torch.randn_like(y)) for x, y in gpu.put(NET.data())] for _ in nets
    ]
    settings = {"loss": "mse", "inner_lr": 0.1, "inner_steps": 2}
    expected = [
        fastmaml.adapt(net, pairs[0], backend="fused", **settings).parameters["0.weight"]
        for net, pairs in zip(nets, data, strict=True)
    ]
    torch.cuda.synchronize()
    wrong: list[object] = []

    def work(index: int) -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(20):
                    found = fastmaml.adapt(
                        nets[index], data[index][0], backend="fused", **settings
                    ).parameters["0.weight"]
                torch.cuda.current_stream().synchronize()
                if not torch.equal(found, expected[index]):
                    wrong.append(index)
        except BaseException as error:  # a thread's failure must reach the test
            wrong.append(error)

    threads = [Thread(target=work, args=(index,)) for index in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_that_runs_out_leaves_grad_alone(gpu: Place) -> None:
    net = nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 5)).to(gpu.device)
    data = [
        (torch.randn(512, 25, 64, device=gpu.device), torch.randint(5, (512, 25)).to(gpu.device))
        for _ in range(2)
    ]
    options = {"inner_lr": 0.1, "inner_steps": 5}
    # A limit of torch's below what the call needs: the engine's own, half of the device, is not.
    wanted = fastmaml.workspace_bytes(net, *data, **options)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu.device).total_memory
    allowed = torch.cuda.memory_reserved(gpu.device) + wanted // 2
    torch.cuda.set_per_process_memory_fraction(allowed / total, gpu.device)
    try:
        with pytest.raises((fastmaml.BackendError, torch.OutOfMemoryError)):
            fastmaml.meta_step(net, *data, backend="fused", **options)
        assert all(parameter.grad is None for parameter in net.parameters())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu.device)
    result = fastmaml.meta_step(net, *data, backend="fused", **options)
    assert result.loss.isfinite()


def test_data_elsewhere_are_refused(gpu: Place) -> None:
    net = model().to(gpu.device)
    with pytest.raises(fastmaml.DeviceError, match="must be on cuda:0"):
        call(net, NET.data())
    with pytest.raises(fastmaml.DeviceError, match="must be on cpu"):
        call(model(), gpu.put(NET.data()))


def test_a_model_may_move(place: Place) -> None:
    net, data = model(), NET.data()
    expected = truth(net, data, **SETTINGS)
    for device in (torch.device("cpu"), place.device, torch.device("cpu"), place.device):
        net.to(device)
        grad = call_for_grad(net, [tuple(t.to(device) for t in pair) for pair in data])
        assert_close(grad.cpu(), expected, "meta_f64")
