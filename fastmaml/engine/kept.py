"""What is kept between calls, and how it neither grows without end nor keeps a model alive."""

from __future__ import annotations

import gc
import sys
import weakref
from types import FunctionType, MethodType, ModuleType
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from fastmaml.definition.copies import is_record

__all__ = ["Recent", "WeakCopy", "contents", "held_bytes", "holds_itself"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None)))
_LEADS_NOWHERE = (Tensor, type, ModuleType)
_OWN = frozenset(("_parameters", "_buffers", "_modules"))  # of a module, and no way back
_CONTAINERS = (dict, list, set, tuple)
_MOST_SEEN = 10_000


class Recent(dict[_Key, _Value | None], Generic[_Key, _Value]):
    """A dict of at most `most` entries, of which those go that were not used for longest.

    What is not there is None. An entry found is a plain look-up: there are two generations, of
    which the older one goes when the younger is full, and what is used of it becomes young again.
    So the last ``most / 2`` that were used are always there.

    >>> squares = Recent[int, int](4)
    >>> for i in range(100):
    ...     squares[i] = i * i
    >>> squares[99], squares[0]
    (9801, None)
    """

    def __init__(self, most: int) -> None:
        """An empty one."""
        super().__init__()
        self._half = most // 2
        self._older: dict[_Key, _Value | None] = {}

    def __missing__(self, key: _Key) -> _Value | None:
        """What an older entry holds, which is a younger one then."""
        found = self._older.pop(key, None)
        if found is not None:
            self[key] = found
        return found

    def __setitem__(self, key: _Key, value: _Value | None) -> None:
        """Add an entry; the older generation may go."""
        if len(self) >= self._half:
            self._older = dict(self)
            self.clear()
        super().__setitem__(key, value)

    def everything(self) -> list[tuple[_Key, _Value | None]]:
        """The entries of both generations."""
        return [*self.items(), *self._older.items()]

    def drop(self, key: _Key) -> None:
        """Remove an entry that may be there."""
        self.pop(key, None)
        self._older.pop(key, None)


def held_bytes(value: Any) -> int:
    """Bytes of tuples, dicts, texts and numbers, each object once.

    >>> text = "a" * 1000
    >>> held_bytes((text, {1: text})) < 1500
    True
    """
    seen: set[int] = set()
    waiting, total = [value], 0
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        total += sys.getsizeof(held)
        if isinstance(held, dict):
            waiting += [*held, *held.values()]
        elif isinstance(held, tuple):
            waiting += held
    return total


def holds_itself(model: nn.Module) -> bool:
    """Whether what its modules hold leads back to the model: a list, a bound method, a closure.

    Whoever holds its modules' attributes then keeps it alive. Of very many objects it is assumed.
    """
    waiting: list[Any] = []
    for module in model.modules():
        held = (value for name, value in vars(module).items() if name not in _OWN)
        waiting += [v for v in held if not isinstance(v, _CONTAINERS) or v]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if value is model or len(seen) > _MOST_SEEN:
            return True
        if type(value) in _PLAIN or isinstance(value, _LEADS_NOWHERE) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType):  # its globals hold everything
            waiting += [value.__closure__, value.__defaults__, value.__kwdefaults__]
        else:
            waiting += gc.get_referents(value)
    return False


class WeakCopy:
    """What a model's modules hold, to be compared with what they hold later, keeping none alive."""

    def __init__(self, model: nn.Module) -> None:
        """Remember it."""
        self._modules = [
            (weakref.ref(module), {name: contents(v) for name, v in vars(module).items()})
            for module in model.modules()
        ]

    def holds(self) -> bool:
        """Whether nothing has changed."""
        return all(
            (module := ref()) is not None and then == vars(module) for ref, then in self._modules
        )


class _Same:
    """Equal to one object alone while that lives, or to a method of it."""

    __slots__ = ("_hash", "_object")

    def __init__(self, value: Any) -> None:
        self._hash = hash(value)
        method = isinstance(value, MethodType)
        self._object = weakref.WeakMethod(value) if method else weakref.ref(value)

    def __eq__(self, other: object) -> bool:
        value = self._object()
        if isinstance(value, MethodType):
            return value == other
        return value is other and value is not None

    def __hash__(self) -> int:
        return self._hash


class _Record:
    """Equal to objects of one class whose attributes are what they were."""

    __slots__ = ("_attributes", "_kind")

    def __init__(self, value: Any, seen: tuple[int, ...]) -> None:
        self._kind = type(value)
        self._attributes = contents(vars(value), seen)

    def __eq__(self, other: object) -> bool:
        return type(other) is self._kind and self._attributes == vars(other)

    __hash__ = object.__hash__


class _Ordered:
    """Equal to dicts that hold the same in the same order."""

    __slots__ = ("_items",)

    def __init__(self, value: dict[Any, Any], seen: tuple[int, ...]) -> None:
        self._items = [(_same(key), contents(item, seen)) for key, item in list(value.items())]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and self._items == list(other.items())

    __hash__ = object.__hash__


def contents(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """What equals a value for as long as nothing in it has changed, and keeps nothing alive.

    Lists, dicts, sets and plain objects are looked into, at any depth.
    """
    if id(value) in seen:
        return _same(value)
    within = (*seen, id(value))
    if isinstance(value, dict):
        return _Ordered(value, within)
    if isinstance(value, list):
        return [contents(item, within) for item in list(value)]
    if isinstance(value, set):
        return {_same(item) for item in list(value)}
    if type(value) is tuple:
        return tuple(contents(item, within) for item in value)
    if isinstance(value, nn.Module) or not is_record(value):
        return _same(value)
    return _Record(value, within)


def _same(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if type(value) is tuple:
        return tuple(map(_same, value))
    try:
        return _Same(value)
    except TypeError:  # without hash or weak references
        return value
