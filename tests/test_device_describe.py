"""What `describe` says of calls on a device is what they then do, on the host's fibers."""

from __future__ import annotations

import re

import test_device_calls as calls
from device_code import on_fibers
from torch import nn

import fastmaml

MANY = calls.MANY


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1])


def test_a_resident_call() -> None:
    net, data = calls.model(), calls.NET.data()
    with on_fibers():
        text = fastmaml.describe(net, *data, **calls.SETTINGS)
        size = fastmaml.workspace_bytes(net, *data, **calls.SETTINGS)
        result, _ = calls.step(net, data)
    assert text.startswith("backend fused\nexecutor cuda resident: 1 launch a call\n")
    assert result.executor == "cuda resident"
    assert "not resident" not in text
    tables = number(r"tables (\d+) bytes", text)
    assert tables > 0
    assert number(r"workspace (\d+) bytes", text) + tables == size
    assert "4 tasks in 1 round\n" in text
    need, most = (number(p, text) for p in (r"needs (\d+) bytes", r"may have (\d+)"))
    assert need <= most
    assert re.search(r"^  contract +step 0 ", text, re.MULTILINE)


def test_a_graph_has_the_kernels_that_are_said() -> None:
    net, data = calls.wide(), calls.NET.data()
    with on_fibers() as module:
        text = fastmaml.describe(net, *data, **calls.SETTINGS)
        result, _ = calls.step(net, data)
        # A caller's capture gets the kernels one by one.
        module.simt.set_capturing(True)
        try:
            before = module.simt.counts()["launches"]
            calls.step(net, data)
            launches = module.simt.counts()["launches"] - before
        finally:
            module.simt.set_capturing(False)
    assert result.executor == "cuda graph"
    assert number(r"executor cuda graph: 1 launch a call, of (\d+) kernels", text) == launches
    assert "not resident: a task outgrows a block's shared memory\n" in text
    need, most = (number(p, text) for p in (r"needs (\d+) bytes", r"may have (\d+)"))
    assert need > most


def test_rounds_are_said() -> None:
    net, data = calls.wide(), calls.NET.data()
    with on_fibers() as module:
        free = fastmaml.workspace_bytes(net, *data, **calls.SETTINGS)
        less = {**calls.SETTINGS, "max_workspace_bytes": free * 2 // 3}
        text = fastmaml.describe(net, *data, **less)
        module.simt.set_capturing(True)
        try:
            before = module.simt.counts()["launches"]
            calls.step(net, data, max_workspace_bytes=free * 2 // 3)
            launches = module.simt.counts()["launches"] - before
        finally:
            module.simt.set_capturing(False)
    assert number(r"4 tasks in (\d+) rounds", text) > 1
    assert "not resident: the tasks take several rounds" in text
    assert number(r"of (\d+) kernels", text) == launches


def test_teams_and_layers_are_named() -> None:
    net, data = calls.model(), calls.NET.data()
    with on_fibers(team=MANY):
        text = fastmaml.describe(net, *data, **calls.SETTINGS)
    assert "not resident: several blocks are to share a task" in text
    grouped = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2)).double()
    with on_fibers():
        text = fastmaml.describe(grouped, *data, **calls.SETTINGS)
    assert "not resident: it does not hold the kernels of all the instructions" in text


def test_the_cpu_says_nothing_of_devices() -> None:
    text = fastmaml.describe(calls.model(), *calls.NET.data(), **calls.SETTINGS)
    assert "cuda" not in text
    assert "instruction set" in text
