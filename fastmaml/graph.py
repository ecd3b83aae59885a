"""From `torch.nn.Module` to a network of the engine's ops, by one symbolic run of its forward.

torch.fx runs the model's Python code on a stand-in for its input. Each torch call that this meets
is looked up in the tables of `fastmaml.graph_ops` and appended to the network at once, so that the
model's code can ask the stand-in for its shape. The number of rows stays open. What no table holds
stops the trace with the name of the layer, and the caller turns to PyTorch.

Value 0 is the input of the network; node i produces value i + 1. A shape is that of one row.
"""

from __future__ import annotations

import builtins
import operator
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from torch import Tensor, fx, nn

from .errors import ShapeError, UnsupportedModelError
from .functional import is_index
from .graph_ops import FUNCTIONS, METHODS, MODULES, ROWS, Value, function_name
from .untouched import RandomState, untouched

__all__ = ["Network", "Node", "TensorSpec", "layer_name", "trace"]


class TensorSpec(NamedTuple):
    """A parameter or buffer of the model: its qualified name, shape, and whether it is trained."""

    name: str
    shape: tuple[int, ...]
    trainable: bool


class Node(NamedTuple):
    """One op: its input values, its parameters (-1: absent) and its output's row shape."""

    op: str
    inputs: tuple[int, ...]
    params: tuple[int, ...]
    attrs: dict[str, float]
    shape: tuple[int, ...]
    name: str


class Network(NamedTuple):
    """A model as a graph of ops; ``output`` is the id of the value that it returns."""

    row_shape: tuple[int, ...]
    tensors: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    output: int


def trace(model: nn.Module, row_shape: tuple[int, ...], where: str = "trace") -> Network:
    """Turn a model into a network of ops.

    The trace depends on the structure of the model, on ``training`` and ``requires_grad`` flags
    and on the settings of its layers; it reads no parameter's value and changes nothing.

    Args:
        model: The module; every op must keep the rows apart, but for batch statistics.
        row_shape: Shape of one row of the input.
        where: The call that texts of `ShapeError` begin with.

    Returns:
        The network. A parameter shared between layers appears once, dead nodes do not.

    Raises:
        UnsupportedModelError: The text is the name of the layer or function that cannot be taken.
        ShapeError: A layer cannot take the shape that reaches it.

    >>> network = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (3,))
    >>> [(node.op, node.params, node.shape) for node in network.nodes]
    [('linear', (0, 1), (4,)), ('relu', (), (4,))]
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"{type(model).__name__}, which is not a torch.nn.Module")
    _check_modules(model)
    start = RandomState()
    for _ in range(_ATTEMPTS):
        before = RandomState()
        network = _trace(model, tuple(row_shape), where)
        if not before.moved():
            return network
    start.restore()
    raise UnsupportedModelError(f"{layer_name('', model)}, whose forward draws random numbers")


def _trace(model: nn.Module, row_shape: tuple[int, ...], where: str) -> Network:
    """One trace, in one thread at a time."""
    with _LOCK, untouched(model):
        tracer = _Tracer(model, row_shape, where)
        try:
            return tracer.network(tracer.run())
        except (UnsupportedModelError, ShapeError):
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnsupportedModelError(f"{tracer.place()}: {reason}") from error


def layer_name(path: str, module: nn.Module) -> str:
    """How messages call a layer: "layer `path` (torch.nn.Class)", or "model (Class)" at the root.

    >>> layer_name("attn", nn.Softmax())
    'layer `attn` (torch.nn.Softmax)'
    """
    kind = type(module)
    origin = "torch.nn" if kind.__module__.startswith("torch.nn.modules") else kind.__module__
    what = f"layer `{path}`" if path else "model"
    return f"{what} ({origin}.{kind.__qualname__})"


_LOCK = threading.Lock()  # torch.fx patches nn.Module while it traces
_ATTEMPTS = 5  # a model that draws, draws each time; another thread that draws hardly will


def _check_modules(model: nn.Module) -> None:
    """Refuse what a trace would silently leave out."""
    registry = nn.modules.module
    if (
        registry._global_forward_hooks
        or registry._global_forward_pre_hooks
        or registry._global_backward_hooks
        or registry._global_backward_pre_hooks
    ):
        raise UnsupportedModelError(f"{layer_name('', model)} under global module hooks")
    for path, module in model.named_modules():
        name = layer_name(path, module)
        if nn.utils.parametrize.is_parametrized(module):
            raise UnsupportedModelError(f"{name} with parametrizations")
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnsupportedModelError(f"{name} with forward hooks")
        if module._backward_hooks or module._backward_pre_hooks:
            raise UnsupportedModelError(f"{name} with backward hooks")
        if type(module) in MODULES and "forward" in vars(module):
            raise UnsupportedModelError(f"{name} with a replaced forward")


class _Proxy(fx.Proxy):
    """The stand-in for a tensor; knows its shape but for the number of rows."""

    @property
    def shape(self) -> tuple[Any, ...]:
        value = self.node.meta["value"]
        return (ROWS, *value.shape) if isinstance(value, Value) else tuple(value.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


def _len(thing: Any) -> Any:
    """``len`` for traced code: Python's own insists on an integer."""
    return thing.shape[0] if isinstance(thing, _Proxy) else builtins.len(thing)


def _has_value(operand: Any) -> bool:
    """Whether it is an activation, or a list or tuple that holds one."""
    if isinstance(operand, (list, tuple)) and not isinstance(operand, Value):
        return any(isinstance(item, Value) for item in operand)
    return isinstance(operand, Value)


class _Root(nn.Module):
    """A root around the user's model, so that defaults of its forward stay Python's business."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model(x)


class _Tracer(fx.Tracer):
    """Runs the model and appends a node of the network for each torch call it meets."""

    proxy_buffer_attributes = True

    def __init__(self, model: nn.Module, row_shape: tuple[int, ...], where: str) -> None:
        super().__init__()
        self.model, self.row_shape, self.where = model, row_shape, where
        self.named: dict[int, tuple[str, Tensor]] = {
            id(tensor): (name, tensor)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        self.nodes: list[Node] = []
        self.tensors: list[TensorSpec] = []
        self.index: dict[int, int] = {}
        self.became: dict[int, Value] = {}  # value id -> what an in-place op turned it into
        self.overwritten: dict[int, int] = {}  # root -> id of the value that now fills its memory
        self.path: list[tuple[str, nn.Module]] = []
        self.call = ""
        self.translating = False  # then attributes of modules are what they are
        self.thread = threading.get_ident()
        self.patched: dict[int, dict[str, Any]] = {}

    def run(self) -> Value:
        """Trace, and give the value that the model returns."""
        try:
            graph = self.trace(_Root(self.model))
        finally:
            for scope in self.patched.values():
                del scope["len"]
        (result,) = graph.output_node().args
        if not isinstance(result, fx.Node):
            self.stop(f", which returns {type(result).__name__} instead of one tensor")
        value = self.meaning(result)
        if not isinstance(value, Value):
            self.stop(", whose output does not depend on its input")
        return self.use(value)

    def network(self, output: Value) -> Network:
        """The nodes that the output needs, renumbered."""
        needed = {output.id}
        for i in reversed(range(len(self.nodes))):
            if i + 1 in needed:
                needed.update(self.nodes[i].inputs)
        kept = [i for i in range(len(self.nodes)) if i + 1 in needed]
        value_id = {0: 0} | {i + 1: new + 1 for new, i in enumerate(kept)}
        used = sorted({p for i in kept for p in self.nodes[i].params if p >= 0})
        tensor_id = {-1: -1} | {p: new for new, p in enumerate(used)}
        nodes = tuple(
            node._replace(
                inputs=tuple(value_id[v] for v in node.inputs),
                params=tuple(tensor_id[p] for p in node.params),
            )
            for node in (self.nodes[i] for i in kept)
        )
        tensors = tuple(self.tensors[p] for p in used)
        return Network(self.row_shape, tensors, nodes, value_id[output.id])

    # What torch.fx calls.

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) in MODULES:
            return True
        transparent = isinstance(m, (nn.Sequential, fx.GraphModule))
        return type(m).__module__.startswith("torch.") and not transparent

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        scope = getattr(type(m).forward, "__globals__", {})
        if "len" not in scope:
            scope["len"] = _len
            self.patched[id(scope)] = scope
        self.path.append((self.path_of_module(m).removeprefix("model").lstrip("."), m))
        result = super().call_module(m, forward, args, kwargs)
        self.path.pop()
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.translating or threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any
    ) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        self.translating = True
        proxy.node.meta["value"] = self.translate(proxy.node)
        self.translating = False
        return proxy

    def translate(self, node: fx.Node) -> Any:
        """Look the call up and let its translator append to the network."""
        if node.op == "placeholder":
            return Value(0, self.row_shape, 0)
        if node.op == "get_attr":
            return self.meaning(node)
        arguments: Any = fx.node.map_arg((node.args, node.kwargs), self.meaning)
        args, kwargs = arguments
        operand = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        self.call = node.name
        if node.op == "call_module":
            path, module = self.path[-1]
            self.call = path or node.name
            if type(module) not in MODULES:
                self.stop()
            result = MODULES[type(module)](self, module, *args, **kwargs)
            in_place = getattr(module, "inplace", False)
        else:
            name = function_name(node.target)
            translator = (FUNCTIONS if node.op == "call_function" else METHODS).get(node.target)
            if translator is None or not _has_value(operand):
                raise UnsupportedModelError(f"{name} in {self.place()}")
            result = translator(self, *args, **kwargs)
            in_place = kwargs.get("inplace") or name.endswith(("_", ".iadd"))
        if in_place:
            self.overwrite(operand, result)
        return result

    def meaning(self, node: fx.Node) -> Any:
        """What an argument stands for: an activation, or a tensor of the model."""
        if "value" not in node.meta:  # torch.fx makes nodes for bare tensors without a proxy
            node.meta["value"] = operator.attrgetter(str(node.target))(self.root)
        return node.meta["value"]

    # What translators call.

    def place(self) -> str:
        """The innermost layer that is being run."""
        return layer_name(*self.path[-1]) if self.path else layer_name("", self.model)

    def stop(self, reason: str = "") -> NoReturn:
        """Refuse the layer that is being run."""
        raise UnsupportedModelError(self.place() + reason)

    def misfit(self, expected: str, got: tuple[int, ...]) -> NoReturn:
        """Report a shape that the layer being run cannot take."""
        raise ShapeError(
            f"{self.where}: {self.place()} must get rows of shape {expected}, got {list(got)}; "
            "change the layer or the data."
        )

    def use(self, operand: Any) -> Value:
        """The activation that an operand holds by now; in-place operations may have changed it."""
        if not isinstance(operand, Value):
            self.stop(f", which applies {self.call} to something other than activations")
        value: Value = operand
        while value.id in self.became:
            value = self.became[value.id]
        if value.id < self.overwritten.get(value.root, 0):
            self.stop(", which uses a view of a tensor that an in-place operation has changed")
        return value

    def overwrite(self, old: Value, new: Value) -> None:
        """Note that an in-place op has put ``new`` into the memory of ``old``."""
        old = self.use(old)
        if new.id != old.id:
            self.became[old.id] = new
            self.overwritten[old.root] = new.id

    def param(self, tensor: Tensor | None) -> int:
        """Index of a parameter or buffer among the network's tensors."""
        if tensor is None:
            return -1
        if id(tensor) not in self.named:
            self.stop(", which uses a tensor that is neither its parameter nor its buffer")
        if is_index(tensor):
            self.stop(f", which computes with `{self.named[id(tensor)][0]}` of {tensor.dtype}")
        if id(tensor) not in self.index:
            self.index[id(tensor)] = len(self.tensors)
            trainable = isinstance(tensor, nn.Parameter) and tensor.requires_grad
            name = self.named[id(tensor)][0]
            self.tensors.append(TensorSpec(name, tuple(tensor.shape), trainable))
        return self.index[id(tensor)]

    def emit(
        self,
        op: str,
        inputs: tuple[Value, ...],
        shape: tuple[int, ...],
        params: tuple[int, ...] = (),
        **attrs: float,
    ) -> Value:
        """Append a node."""
        operands = tuple(self.use(value).id for value in inputs)
        self.nodes.append(Node(op, operands, params, attrs, shape, self.call))
        new = len(self.nodes)
        return Value(new, shape, inputs[0].root if op == "reshape" else new)
