"""What tests decide for the planner and the executor: how, and for how long."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from fastmaml.engine.core import Engine, engine_in_use, using

Force = Callable[..., None]
"""The fixture `force`: as `forced`, until the test ends."""

_ATTRIBUTES = {field.name for field in fields(Engine)}


@contextmanager
def forced(**changed: Any) -> Iterator[None]:
    """Calls inside have an engine with these attributes, and plans with these settings.

    `forced(team=2, factored=0)`: at most two blocks share a task, and wide weights are dense.
    """
    settings = {name: value for name, value in changed.items() if name not in _ATTRIBUTES}
    attributes = {name: value for name, value in changed.items() if name in _ATTRIBUTES}
    with using(**attributes, forced={**engine_in_use().forced, **settings}):
        yield


class Thread(threading.Thread):
    """A thread whose calls use the engine of who made it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._made_in = contextvars.copy_context()

    def run(self) -> None:
        self._made_in.run(super().run)
