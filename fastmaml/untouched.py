"""Guards around running a model's Python code for any other purpose than its result."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .errors import UnsupportedModelError

__all__ = ["RandomState", "untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run code of the model, undo what it does to the module, and refuse a model that does it.

    Watched are the attributes of every submodule and the lists, dicts and sets among them: a
    forward that counts its calls is more than a function, and one trace cannot stand for it.

    Raises:
        UnsupportedModelError: On leaving, when something had changed; it is restored first.
    """
    modules = list(model.named_modules())
    before = [
        {key: (value, _contents(value)) for key, value in vars(m).items()} for _, m in modules
    ]
    changed = ""
    try:
        yield
    finally:
        for (path, module), attributes in zip(modules, before, strict=True):
            key = _first_change(module, attributes)
            if key is not None:
                changed = changed or f"`{path or type(module).__name__}.{key}`"
                _restore(module, attributes)
    if changed:
        kind = type(model)
        raise UnsupportedModelError(
            f"model ({kind.__module__}.{kind.__qualname__}), whose forward changes {changed}"
        )


class RandomState:
    """The state of the random generators that all threads share, torch's and Python's."""

    def __init__(self) -> None:
        """Read it."""
        self._torch, self._python = torch.get_rng_state(), random.getstate()

    def moved(self) -> bool:
        """Whether numbers have been drawn since, by this thread or another."""
        return self._python != random.getstate() or not torch.equal(
            self._torch, torch.get_rng_state()
        )

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self._torch)
        random.setstate(self._python)


def _contents(value: Any) -> Any:
    """A copy of what a container holds, in an order that can be compared and put back."""
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, (list, set)) else None


def _first_change(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> str | None:
    """The first attribute that is not what it was."""
    now = vars(module)
    for key in now:
        if key not in attributes:
            return key
    for key, (value, contents) in attributes.items():
        if now.get(key, attributes) is not value or not _same(_contents(value), contents):
            return key
    return None


def _same(now: Any, then: Any) -> bool:
    """Whether two lists of contents hold the same objects."""
    if now is None or then is None or len(now) != len(then):
        return now is then
    return all(
        (a is b) if not isinstance(a, tuple) else all(x is y for x, y in zip(a, b, strict=True))
        for a, b in zip(now, then, strict=True)
    )


def _restore(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> None:
    """Put attributes and the contents of containers back."""
    state = vars(module)
    state.clear()
    for key, (value, contents) in attributes.items():
        state[key] = value
        if isinstance(value, (dict, set)):
            value.clear()
            value.update(contents)
        elif isinstance(value, list):
            value[:] = contents
