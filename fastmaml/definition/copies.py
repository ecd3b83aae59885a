"""A model's own objects once more, for running its forward with other tensors.

A forward may do what it likes: count its calls, keep an activation, update statistics in place. So
it never runs on the user's modules with anything but the user's tensors, and nothing is put into
them that would have to be taken out again, which another thread, a fork or Ctrl-C could see. It
runs on a copy of the module tree that shares the tensors: modules, the containers and plain objects
that they hold, bound methods, partials and closures over any of them. What is shared besides
(functions, classes, objects of libraries) is only read or is no part of a model.
"""

from __future__ import annotations

import copy
import sys
import weakref
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fastmaml.modes import grad_mode

__all__ = ["ModelCopy", "is_record"]

_ATOMS = frozenset((bool, int, float, complex, str, bytes, type(None), type, torch.Size))
_PLAIN_DICTS = (dict, OrderedDict)
_DICTS = (*_PLAIN_DICTS, defaultdict)
_LISTS = (list, deque)
_CONTAINERS = (*_DICTS, *_LISTS, set, tuple)
_RECORDS = (Namespace, SimpleNamespace)
_FOREIGN = frozenset(("torch", "numpy")) | sys.stdlib_module_names
_MAKERS = ("__new__", "__reduce_ex__", "__reduce__")
_MOST_ITEMS = 10_000  # of a container: what is longer holds data, and no modules

_Put = Callable[[Tensor], object]


class _Held:
    """A tensor that a forward may write, and the copy of it that it is given instead."""

    def __init__(self, original: Tensor, puts: list[_Put]) -> None:
        self.original, self.puts = original, puts

    def written(self) -> bool:
        """Whether a forward has written it."""
        return self.current._version != self.version

    def renew(self) -> None:
        """Make it what the original is; `_renew` calls it."""
        current = self.original.detach().clone()
        if isinstance(self.original, nn.Parameter):
            current = nn.Parameter(current, requires_grad=False)
        self.current, self.version = current, current._version
        for put in self.puts:
            put(current)


def _renew(stale: list[_Held]) -> None:
    """Make each what its original is, in a mode whose tensors autograd may track."""
    if stale:
        with grad_mode():
            for held in stale:
                held.renew()


class ModelCopy:
    """A copy of a module tree whose trainable parameters are whatever `put` was given last.

    Buffers, frozen parameters and other tensors without a gradient are copies too, as they were at
    the time of the call: each `put` undoes what a forward has written into them.

    Attributes:
        module: The copy of the model, of the same classes.
        has_leaves: Whether it holds leaves that require grad and are no parameters of it.
    """

    def __init__(self, model: nn.Module, convert: Callable[[Tensor], Tensor] | None = None) -> None:
        """Copy the tree.

        Args:
            model: The model; it is only read.
            convert: Makes what stands in the place of each tensor, once and for all, instead of
                what is said above.
        """
        self._memo: dict[int, Any] = {}
        self._alive: list[Any] = [model]  # what ids in the memo belong to
        self._convert = convert
        named = list(model.named_parameters())
        self._trained = {id(p) for _, p in named if p.requires_grad}
        self.has_leaves = False
        self._puts: dict[int, tuple[Tensor, list[_Put]]] = {}  # by tensor: where it stands
        modules = list(model.modules())
        for module in modules:
            self._enter(module)
        for module in modules:
            self._fill(module)
        self.module: nn.Module = self._memo[id(model)]
        self._held = [
            _Held(tensor, puts) for tensor, puts in self._puts.values() if not tensor.requires_grad
        ]
        _renew(self._held)
        self._own = {
            name: tensor
            for name, tensor in named
            if id(tensor) in self._trained and id(tensor) in self._puts
        }
        self._names = {name: self._puts[id(tensor)][1] for name, tensor in self._own.items()}
        self._memo, self._alive, self._puts = {}, [], {}

    def put(self, parameters: Mapping[str, Tensor]) -> nn.Module:
        """The copy with these in the places of the parameters of their names."""
        # What torch.func transforms may be written only where it was made.
        transformed = torch._C._are_functorch_transforms_active()
        _renew([held for held in self._held if transformed or held.written()])
        for name, tensor in parameters.items():
            tensor._is_param = True  # for isinstance, as torch has it
            for put in self._names.get(name, ()):
                put(tensor)
        return self.module

    def release(self) -> None:
        """Keep the parameters of the last `put` no longer; the next one comes before a forward."""
        for name, tensor in self._own.items():
            for put in self._names[name]:
                put(tensor)

    # --- modules ----------------------------------------------------------------------------------

    def _enter(self, module: nn.Module) -> None:
        """An empty copy, so that what is copied next can refer to it."""
        if id(module) in self._memo:
            return
        if isinstance(module, torch.jit.ScriptModule):
            for part, twin in zip(module.modules(), copy.deepcopy(module).modules(), strict=True):
                self._keep(part, twin)
            return
        self._keep(module, object.__new__(type(module)))

    def _fill(self, module: nn.Module) -> None:
        """What the copy of a module holds."""
        if isinstance(module, torch.jit.ScriptModule):
            self._fill_scripted(module)
            return
        new = self._memo[id(module)]
        state = vars(new)
        for name, value in dict(vars(module)).items():
            kind = type(value)
            if kind in _ATOMS:
                state[name] = value
            elif kind in _PLAIN_DICTS:  # no place for a tensor itself, and for hooks nearly always
                known = self._memo.get(id(value))
                if known is None:
                    known = self._copy(value) if value else self._keep(value, kind())
                state[name] = known
            else:
                self._set(state, name, value)

    def _fill_scripted(self, module: nn.Module) -> None:
        """Those hold their tensors in C++; an attribute set there is set for their forward."""
        new = self._memo[id(module)]
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in own:
            self._place(tensor, partial(setattr, new, name))

    # --- anything else ----------------------------------------------------------------------------

    def _keep(self, old: Any, new: Any) -> Any:
        self._memo[id(old)] = new
        self._alive.append(old)
        return new

    def _set(self, container: Any, key: Any, value: Any) -> None:
        """Put the copy of a value into a dict or list, at its key."""
        container[key] = value
        if isinstance(value, Tensor):
            self._place(value, partial(container.__setitem__, key))
        elif isinstance(value, tuple) and any(isinstance(item, Tensor) for item in value):
            self._place_tuple(value, partial(container.__setitem__, key))
        else:
            container[key] = self._copy(value)

    def _place(self, tensor: Tensor, put: _Put) -> None:
        """Note where a tensor stands."""
        if self._convert is not None:
            if id(tensor) not in self._memo:
                self._keep(tensor, self._convert(tensor))
            put(self._memo[id(tensor)])
        elif id(tensor) in self._trained or not (
            tensor.requires_grad or nn.parameter.is_lazy(tensor)  # part of a graph of the user's
        ):
            self._puts.setdefault(id(tensor), (tensor, []))[1].append(put)
        elif tensor.requires_grad:
            self.has_leaves = True

    def _place_tuple(self, value: tuple[Any, ...], put: Callable[[Any], object]) -> None:
        """The same for what stands in a tuple, which is made anew for each."""
        items = [item if isinstance(item, Tensor) else self._copy(item) for item in value]
        make = getattr(type(value), "_make", type(value))  # of a NamedTuple, or its class

        def put_item(at: int, tensor: Tensor) -> None:
            items[at] = tensor
            put(make(items))

        for i, item in enumerate(value):
            if isinstance(item, Tensor):
                self._place(item, partial(put_item, i))

    def _copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, _CONTAINERS) and len(value) > _MOST_ITEMS:
            return value
        if kind in _DICTS:
            new = self._keep(value, kind())
            if kind is defaultdict:
                new.default_factory = value.default_factory
            for key, item in list(value.items()):
                self._set(new, self._memo.get(id(key), key), item)
            return new
        if kind in _LISTS:
            items = list(value)
            new = self._keep(value, copy.copy(value))
            for i, item in enumerate(items):
                self._set(new, i, item)
            return new
        if kind is set:
            return self._keep(value, {self._memo.get(id(item), item) for item in list(value)})
        if isinstance(value, tuple):
            return self._tuple(value)
        return self._object(value)

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        items = [item if isinstance(item, Tensor) else self._copy(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return self._keep(value, getattr(type(value), "_make", type(value))(items))

    def _object(self, value: Any) -> Any:
        """What may refer to a module, or be written by one."""
        if isinstance(value, MethodType):
            owner = self._copy(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, FunctionType):
            return self._function(value)
        if type(value) is partial:
            parts = [self._copy(part) for part in (value.func, value.args, value.keywords)]
            return self._keep(value, partial(parts[0], *parts[1], **parts[2]))
        if isinstance(value, weakref.ref):
            target = value()
            new = self._memo.get(id(target))
            return value if target is None or new is None else weakref.ref(new)
        if isinstance(value, nn.Module):  # hidden in a list, say: no submodule, but a module
            for module in value.modules():
                self._enter(module)
            for module in list(value.modules()):
                self._fill(module)
            return self._memo[id(value)]
        if not is_record(value):
            return value
        kind: Any = type(value)
        new = self._keep(value, kind.__new__(kind))
        for name, item in dict(vars(value)).items():
            self._set(vars(new), name, item)
        return new

    def _function(self, value: FunctionType) -> Any:
        """A function whose closure holds something that was copied."""
        cells = value.__closure__
        if not cells:
            return value
        self._keep(value, value)  # it may hold itself
        new_cells = []
        for cell in cells:
            try:
                content = cell.cell_contents
            except ValueError:  # not set yet
                new_cells.append(cell)
                continue
            new_cells.append(self._cell(cell, content))
        if all(new is old for new, old in zip(new_cells, cells, strict=True)):
            return value
        new = FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(new_cells)
        )
        new.__kwdefaults__ = value.__kwdefaults__
        return self._keep(value, new)

    def _cell(self, cell: CellType, content: Any) -> CellType:
        """A cell is shared by the functions that have it."""
        if id(cell) in self._memo:
            known: CellType = self._memo[id(cell)]
            return known
        new_cell = self._keep(cell, CellType(content))
        if isinstance(content, Tensor):
            self._place(content, partial(setattr, new_cell, "cell_contents"))
            return new_cell  # type: ignore[no-any-return]
        new = self._copy(content)
        if new is content:
            return self._keep(cell, cell)  # type: ignore[no-any-return]
        new_cell.cell_contents = new
        return new_cell  # type: ignore[no-any-return]


def is_record(value: Any) -> bool:
    """Whether an object is no more than its attributes: a namespace, a dataclass, a plain class."""
    kind = type(value)
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return False
    if kind in _RECORDS or is_dataclass(kind):
        return True
    if kind.__module__.partition(".")[0] in _FOREIGN:
        return False
    return all(getattr(kind, name) is getattr(object, name) for name in _MAKERS)
