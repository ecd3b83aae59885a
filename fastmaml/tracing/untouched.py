"""Guards around running a model's Python code for any other purpose than its result."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastmaml.errors import UnsupportedModelError

__all__ = ["untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run code of the model, undo what it does to the module, and refuse a model that does it.

    Watched are the attributes of every submodule and the lists, dicts and sets among them: a
    forward that counts its calls is more than a function, and one trace cannot stand for it.

    Raises:
        UnsupportedModelError: On leaving, when something had changed; it is restored first.
    """
    before = [
        (path, module, dict(vars(module)), _contents(vars(module)))
        for path, module in model.named_modules()
    ]
    changed = ""
    try:
        yield
    finally:
        for path, module, attributes, contents in before:
            key = _first_change(vars(module), attributes, contents)
            if key is not None:
                changed = changed or f"`{path or type(module).__name__}.{key}`"
                _restore(vars(module), attributes, contents)
    if changed:
        kind = type(model)
        raise UnsupportedModelError(
            f"model ({kind.__module__}.{kind.__qualname__}), whose forward changes {changed}"
        )


def _contents(attributes: dict[str, Any]) -> dict[str, Any]:
    """What the containers among a module's attributes hold, in an order that can be put back.

    Most are empty, such as those for hooks: of these there is no copy, but None.
    """
    return {
        key: (dict(value) if isinstance(value, dict) else list(value)) if value else None
        for key, value in attributes.items()
        if isinstance(value, (dict, list, set))
    }


def _first_change(
    now: dict[str, Any], attributes: dict[str, Any], contents: dict[str, Any]
) -> str | None:
    """The first attribute that is not what it was."""
    if not _same(now, attributes):
        for key in now:
            if key not in attributes:
                return key
        for key, value in attributes.items():
            if now.get(key, attributes) is not value:
                return key
    for key, then in contents.items():
        value = attributes[key]
        if value if then is None else not _same(value, then):
            return key
    return None


def _same(now: Any, then: Any) -> bool:
    """Whether two containers hold the same objects, in the same order."""
    if len(now) != len(then) or not all(map(operator.is_, now, then)):
        return False
    return not isinstance(now, dict) or all(map(operator.is_, now.values(), then.values()))


def _restore(state: dict[str, Any], attributes: dict[str, Any], contents: dict[str, Any]) -> None:
    """Put attributes and the contents of containers back."""
    state.clear()
    state.update(attributes)
    for key, then in contents.items():
        value = attributes[key]
        value.clear()
        if then is not None:
            value.extend(then) if isinstance(value, list) else value.update(then)
