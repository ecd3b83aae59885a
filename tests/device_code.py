"""The engine's device code on the host: the module `_simt`, and how a test makes calls use it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from fastmaml.engine.core import using

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "simt"
ORDERS = [("ascending", 0), ("descending", 0), ("shuffled", 1), ("shuffled", 2), ("shuffled", 3)]
TEAMS = [0, 1, 2, 7]  # blocks that share a task; 0: as the engine chooses


def load(name: str = "_simt", folder: Path = BUILD) -> ModuleType:
    """The module, or a skip that says how to build it."""
    if not any(folder.glob(f"{name}.*so")):
        pytest.skip(f"{name} is not built: make simt")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(name)


@contextmanager
def on_fibers(
    order: tuple[str, int] = ORDERS[0],
    team: int = 0,
    name: str = "_simt",
) -> Iterator[ModuleType]:
    """Calls inside run device code on fibers that take turns in this order.

    With the module `_simt_checked`, an access out of bounds and a race are BackendErrors.
    """
    module = load(name)
    with using(core=module, device_type="cpu", team=team):
        module.simt.set_order(*order)
        yield module
