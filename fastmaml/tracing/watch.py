"""What a model's forward reads besides tensors: is it still the same, and can that be told at all?

A trace holds for as long as the model's Python code would do the same again. So the code is read
before it is traced: the forward of every class that is not torch's, and whatever functions and
methods it leads to. The globals, closures and class attributes that it names are remembered, and
the contents of lists, dicts and plain objects among them and among the attributes of modules, at
any depth. Code that reads what cannot be remembered (a random generator, a clock, the environment,
an iterator, an array) or writes globals is refused.

Attributes are told by name alone: one that the code names somewhere counts as read everywhere.
"""

from __future__ import annotations

import dis
import enum
import functools
import logging
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastmaml.definition.copies import is_record
from fastmaml.engine.kept import contents

__all__ = ["Watch"]

_ATOMS = (bool, int, float, complex, str, bytes, type(None), np.generic, enum.Enum)
_TORCHS = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)
_CONTAINERS = (dict, list, set, tuple)
_HARMLESS = (*_ATOMS, *_TORCHS, Tensor, nn.Module, logging.Logger, type(...), type(NotImplemented))
_MUTABLE = (torch.Generator, np.ndarray, Iterator, deque, bytearray, memoryview)
# Modules of the standard library whose functions depend on their arguments alone, or print.
_PURE = frozenset(
    (
        *("abc", "builtins", "cmath", "collections", "contextlib", "copy", "dataclasses", "enum"),
        *("functools", "inspect", "itertools", "logging", "math", "numbers", "operator", "re"),
        *("string", "types", "typing", "typing_extensions", "warnings", "_collections", "_abc"),
        *("_functools", "_operator", "_warnings", "collections.abc"),
    )
)
_IMPURE_BUILTINS = frozenset(
    ("open", "input", "eval", "exec", "compile", "globals", "locals", "__import__", "id")
)
_DYNAMIC = frozenset(("getattr", "setattr", "vars", "__dict__", "__getattribute__", "delattr"))
_GOES_ON = frozenset(("LOAD_ATTR", "LOAD_METHOD", "PUSH_NULL", "CACHE", "EXTENDED_ARG", "NOP"))
_MOST = 10_000  # functions and objects; of larger models too much would have to be read


class _UnwatchedError(Exception):
    """Something that the code reads cannot be watched."""


class _Scan(NamedTuple):
    """What a function's code names, and that of functions within it."""

    chains: tuple[tuple[str, bool, tuple[str, ...]], ...]  # name, of a closure?, attributes of it
    attributes: frozenset[str]
    imports: frozenset[str]
    writes: frozenset[str]  # globals, and variables of closures


@functools.lru_cache(maxsize=4096)
def _scan(code: CodeType) -> _Scan:
    chains: list[tuple[str, bool, list[str]]] = []
    attributes, imports, writes = set[str](), set[str](), set[str]()
    waiting = [code]
    while waiting:
        part = waiting.pop()
        waiting += (const for const in part.co_consts if isinstance(const, CodeType))
        chain: list[str] | None = None
        for step in dis.get_instructions(part):
            name = step.opname
            starts = name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF")
            if starts:
                chain = []
                chains.append((step.argval, "DEREF" in name, chain))
            elif name in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                attributes.add(step.argval)
                if chain is not None:
                    chain.append(step.argval)
            elif name == "IMPORT_NAME":
                imports.add(step.argval)
            elif name in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
                name == "STORE_DEREF" and step.argval in code.co_freevars
            ):
                writes.add(step.argval)
            if not (starts or name in _GOES_ON):
                chain = None
    distinct = dict.fromkeys((name, deref, tuple(chain)) for name, deref, chain in chains)
    return _Scan(tuple(distinct), frozenset(attributes), frozenset(imports), frozenset(writes))


class Watch:
    """What a model's forward reads, as it is now.

    Attributes:
        reason: Why that cannot be told, as the end of a sentence about the model; or None.
        items: ``(holder, name, value)``: what a dict holds by that name, or an object has.
    """

    def __init__(self, model: nn.Module) -> None:
        """Read the code of the model and of its layers."""
        self.reason: str | None = None
        self.items: list[tuple[Any, str, Any]] = []
        self._places: list[tuple[Callable[[], Any], Any]] = []  # where to look, and what was there
        self._functions: dict[int, FunctionType] = {}
        self._classes: dict[type, None] = {}
        self._attributes = set[str]()
        self._judged: dict[int, Any] = {}
        self._looked_at = set[tuple[int, str]]()
        self._waiting: list[FunctionType] = []
        # The forward of compiled ones is in no Python code; a trace refuses them.
        compiled = torch.jit.ScriptModule
        self._modules = [m for m in model.modules() if not isinstance(m, compiled)]
        try:
            self._read(model)
        except _UnwatchedError as reason:
            self.reason = str(reason)
        # The model must be able to go.
        self._functions, self._judged, self._modules, self._waiting = {}, {}, [], []

    def holds(self) -> bool:
        """Whether it is still so, but for `items`."""
        return all(then == look() for look, then in self._places)

    def _remember(self, holder: Any, name: str, value: Any) -> None:
        """Watch what a namespace or a class has by a name; neither is part of a model."""
        if isinstance(value, (*_ATOMS, type, ModuleType, FunctionType, BuiltinFunctionType)):
            self.items.append((holder, name, value))
        else:
            get = holder.get if isinstance(holder, dict) else functools.partial(getattr, holder)
            self._places.append((functools.partial(get, name, None), contents(value)))

    def _read(self, model: nn.Module) -> None:
        for kind in {type(module): None for module in self._modules}:
            self.items.append((kind, "forward", kind.forward))
        for module in self._modules:
            if _is_torchs(module):
                continue
            self._classes.setdefault(type(module))
            self._function(type(module).forward)
            if "forward" in vars(module):
                self._judge(vars(module)["forward"], "forward")
        done = -1
        while done != len(self._functions) + len(self._attributes) + len(self._classes):
            done = len(self._functions) + len(self._attributes) + len(self._classes)
            while self._waiting:
                self._read_function(self._waiting.pop())
            for kind in list(self._classes):
                self._read_class(kind)
            for module in self._modules:
                for name, value in list(vars(module).items()):
                    if name not in _OWN and self._is_read(name):
                        self._attribute(module, name, value)

    def _attribute(self, module: nn.Module, name: str, value: Any) -> None:
        if (id(module), name) not in self._looked_at:
            self._looked_at.add((id(module), name))
            self._judge(value, name)
            if isinstance(value, _CONTAINERS) or is_record(value):
                self._places.append(
                    (functools.partial(_attribute_of, weakref.ref(module), name), contents(value))
                )

    def _is_read(self, name: str) -> bool:
        return name in self._attributes or not self._attributes.isdisjoint(_DYNAMIC)

    # --- code -------------------------------------------------------------------------------------

    def _function(self, function: Any) -> None:
        """Add a function's code to what is to be read."""
        function = getattr(function, "__wrapped__", function)
        if isinstance(function, FunctionType) and id(function) not in self._functions:
            self._functions[id(function)] = function
            self._waiting.append(function)
            if len(self._functions) > _MOST:
                raise _UnwatchedError("calls too many functions to be read")

    def _read_function(self, function: FunctionType) -> None:
        scan = _scan(function.__code__)
        for name in scan.writes:
            raise _UnwatchedError(f"writes `{name}`, which is none of its own variables")
        for name in scan.imports:
            if name.partition(".")[0] not in _PURE | {"torch", _root(function)}:
                raise _UnwatchedError(f"imports `{name}`")
        self._attributes |= scan.attributes
        cells = function.__code__.co_freevars
        for name, deref, chain in scan.chains:
            if name.startswith("@"):  # pytest's own, in code with an assert
                continue
            if deref:
                if name in cells:
                    self._cell(function, name, chain)
                continue
            if name in _DYNAMIC:
                self._attributes.add(name)
            holder = function.__globals__
            if name in holder:
                self._remember(holder, name, holder[name])
                self._follow(holder[name], name, chain)
            elif name in _IMPURE_BUILTINS:
                raise _UnwatchedError(f"calls `{name}`")
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._judge(default, function.__name__)

    def _cell(self, function: FunctionType, name: str, chain: tuple[str, ...]) -> None:
        value = _content_of(weakref.ref(function), name)
        look = functools.partial(_content_of, weakref.ref(function), name)
        self._places.append((look, contents(value)))
        self._follow(value, name, chain)

    def _follow(self, value: Any, name: str, chain: tuple[str, ...]) -> None:
        for attribute in chain:
            if not isinstance(value, ModuleType):
                break
            name = f"{name}.{attribute}"
            holder, value = vars(value), getattr(value, attribute, None)
            if attribute in holder:
                self._remember(holder, attribute, value)
            if isinstance(value, ModuleType) and value.__name__ == "numpy.random":
                raise _UnwatchedError(f"calls `{name}`")
        self._judge(value, name)

    def _read_class(self, kind: type) -> None:
        called = _CALLED_BY_PYTHON if issubclass(kind, nn.Module) else _CALLED_BY_PYTHON | _MAKING
        for base in kind.__mro__:
            if base is nn.Module or base is object or _root(base) == "torch":
                continue
            for name, value in list(vars(base).items()):
                special = name.startswith("__")
                if not (name in called if special else self._is_read(name)):
                    continue
                inner = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(inner, FunctionType):
                    if id(inner) not in self._functions:
                        self.items.append((kind, name, getattr(kind, name)))
                        self._function(inner)
                elif (id(kind), name) not in self._looked_at:
                    self._looked_at.add((id(kind), name))
                    self._judge(value, name)
                    self._remember(kind, name, value)

    # --- objects ----------------------------------------------------------------------------------

    def _judge(self, value: Any, name: str) -> None:
        """Watch an object that the code reads by this name, or refuse it."""
        if isinstance(value, _HARMLESS) or id(value) in self._judged:
            return
        self._judged[id(value)] = value
        if len(self._judged) > _MOST:
            raise _UnwatchedError("reads too many objects to be watched")
        if isinstance(value, _CONTAINERS):
            self._container(value, name)
        elif isinstance(value, (type, ModuleType, FunctionType, BuiltinFunctionType)):
            self._code(value, name)
        elif isinstance(value, MethodType):
            self._function(value.__func__)
            self._judge(value.__self__, name)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._judge(part, name)
        elif is_record(value):
            if not _is_of_library(type(value)):
                self._classes.setdefault(type(value))
            self._container(vars(value), name)
        elif not _is_pure(type(value)):
            raise _UnwatchedError(
                f"reads `{name}` ({type(value).__module__}.{type(value).__qualname__}), which "
                "cannot be watched"
            )

    def _container(self, value: Any, name: str) -> None:
        if len(value) > _MOST:
            raise _UnwatchedError(f"reads `{name}`, which holds too much to be watched")
        for item in list(value.values() if isinstance(value, dict) else value):
            self._judge(item, name)

    def _code(self, value: Any, name: str) -> None:
        """Something that can be called."""
        if isinstance(value, ModuleType):
            return  # only what is asked of it matters
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, (ModuleType, type)):
            self._judge(owner, name)  # a method
            return
        if _is_pure(value):
            if getattr(value, "__name__", "") in _IMPURE_BUILTINS and _root(value) == "builtins":
                raise _UnwatchedError(f"calls `{name}`")
            return
        if isinstance(value, FunctionType) and not _is_of_library(value):
            self._function(value)
        elif isinstance(value, type) and not _is_of_library(value):
            self._classes.setdefault(value)
        else:
            raise _UnwatchedError(f"calls `{name}`")


_OWN = frozenset(vars(nn.Module()))
_CALLED_BY_PYTHON = frozenset(
    (
        *("__call__", "__getattr__", "__getitem__", "__len__", "__iter__", "__contains__"),
        *("__enter__", "__exit__", "__bool__", "__eq__", "__hash__", "__next__"),
    )
)
_MAKING = frozenset(("__init__", "__post_init__", "__new__"))


def _attribute_of(module: weakref.ref[nn.Module], name: str) -> Any:
    there = module()
    return None if there is None else vars(there).get(name)


def _content_of(function: weakref.ref[FunctionType], name: str) -> Any:
    """What a closure holds; None where it has not been set yet."""
    there = function()
    if there is None or there.__closure__ is None:
        return None
    try:
        return there.__closure__[there.__code__.co_freevars.index(name)].cell_contents
    except ValueError:
        return None


def _is_torchs(module: nn.Module) -> bool:
    """Whether a module's forward is one of torch's layers'."""
    kind = type(module).forward
    of_torch = (getattr(kind, "__module__", None) or "").startswith("torch.nn.")
    return of_torch and "forward" not in vars(module)


def _root(value: Any) -> str:
    return (getattr(value, "__module__", None) or "builtins").partition(".")[0]


def _is_pure(value: Any) -> bool:
    """Whether what a library's function or class gives depends on what it is given alone."""
    module = getattr(value, "__module__", None) or "builtins"
    if not isinstance(module, str):
        return False
    if module.startswith(("numpy.random", "mtrand", "torch.random", "torch._C.Generator")):
        return False
    if isinstance(value, type) and issubclass(value, _MUTABLE):
        return False
    return module in _PURE or module.partition(".")[0] in ("torch", "numpy")


def _is_of_library(value: Any) -> bool:
    """Whether it belongs to Python or numpy."""
    return _root(value) in sys.stdlib_module_names or _root(value) == "numpy"
