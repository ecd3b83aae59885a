"""The run of a forward in which each torch call becomes a node of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastmaml.definition.functional import is_autocast, is_index
from fastmaml.errors import ShapeError, UnsupportedModelError
from fastmaml.modes import Mode, within

from .network import Held, Network, Node, TensorSpec, Value, layer_name
from .ops import CALLED, FUNCTIONS, METHODS, function_name, is_in_place
from .questions import UNANSWERED, answer, tells_rows

__all__ = ["Recorder"]


_OWN_FORMS = frozenset(("linear", "conv2d"))  # whose weights are kept factored or packed


class _Stop(BaseException):
    """Leaves the forward; no ``except Exception`` of the model's holds it up."""


class Recorder(Mode):
    """Runs the model and appends a node of the network for each torch call it sees."""

    def __init__(self, model: nn.Module, x: Tensor, device: torch.device, where: str) -> None:
        """Prepare a run.

        Args:
            model: A copy of the model, whose tensors have no memory.
            x: What it is given.
            device: Where its tensors are said to be.
            where: The call that texts of `ShapeError` begin with.
        """
        super().__init__()
        self.model, self.input, self.device, self.where = model, x, device, where
        self.dtype, self.rows, self.row_shape = x.dtype, x.shape[0], tuple(x.shape[1:])
        self.named: dict[int, tuple[str, Tensor, int]] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.named.setdefault(id(tensor), (name, tensor, tensor._version))
        # By tensor: the value that it holds, which state of its memory that is, and what kind of
        # node derives it.
        self.values: dict[int, tuple[Tensor, Value, int, type]] = {}
        self.bind(self.input, Value(0, self.row_shape))
        self.nodes: list[Node] = []
        self.tensors: list[TensorSpec] = []
        self.index: dict[int, int] = {}
        self.path: list[tuple[str, nn.Module]] = []
        self.name = ""
        self.error: Exception | None = None
        self.records = True  # whether autograd does, by the calls that switch it
        self.hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        self.knows_rows = False
        self.graph = torch.empty((), dtype=x.dtype, device="meta", requires_grad=True)
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._enter(name))
            module.register_forward_hook(self._leave)

    def run(self) -> Value:
        """Run the model, and give the value that it returns."""
        try:
            result = within(self, self.model, self.input)
        except _Stop:
            pass
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.error = self.error or UnsupportedModelError(f"{self.place()}: {reason}")
        if self.error is not None:
            raise self.error from None
        self.path = []
        if not isinstance(result, Tensor):
            raise UnsupportedModelError(
                f"{self.place()}, which returns {type(result).__name__} instead of one tensor"
            )
        try:
            value = self.operand(result)
        except _Stop:
            raise self.error from None  # type: ignore[misc]
        if isinstance(value, Held):
            raise UnsupportedModelError(
                f"{self.place()}, whose output does not depend on its input"
            )
        return value  # type: ignore[no-any-return]

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, args: self.path.append((name, module))

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if self.path:
            self.path.pop()

    def network(self, output: Value) -> Network:
        """The nodes that the output needs, renumbered."""
        needed = {output.id}
        for i in reversed(range(len(self.nodes))):
            if i + 1 in needed:
                needed.update(self.nodes[i].inputs)
        kept = [i for i in range(len(self.nodes)) if i + 1 in needed]
        value_id = {0: 0} | {i + 1: new + 1 for new, i in enumerate(kept)}
        self._check_shared([self.nodes[i] for i in kept])
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
        return Network(self.row_shape, tensors, nodes, value_id[output.id], self.knows_rows)

    def _check_shared(self, nodes: list[Node]) -> None:
        """Refuse a weight that one op keeps in a form of its own and another reads."""
        roles: dict[int, set[tuple[str, bool]]] = {}
        for node in nodes:
            for at, param in enumerate(node.params):
                weight = at == 0 and node.op in _OWN_FORMS
                roles.setdefault(param, set()).add((node.op if weight else "", weight))
        for param, uses in roles.items():
            if param >= 0 and len(uses) > 1:
                raise UnsupportedModelError(
                    f"{layer_name('', self.model)}, which uses `{self.tensors[param].name}` in "
                    "operations of several kinds"
                )

    # --- torch's calls ----------------------------------------------------------------------------

    def call(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """One call: what it means, then what it gives."""
        if self.error is not None:
            raise _Stop
        name = function_name(func)
        if func is torch._C._set_grad_enabled:
            self._switch(args[0])
        answered = self._counts(func, args)
        if answered is UNANSWERED:
            answered = answer(func, args, kwargs, self.device)
            self.knows_rows = self.knows_rows or tells_rows(func)
        if answered is not UNANSWERED:
            return answered
        try:
            value = self.translate(func, name, args, kwargs)
        except (TypeError, ValueError, AttributeError) as error:
            self.stop(f", which calls {name} in a way that is not known ({error})")
        result = self._execute(func, args, kwargs, value)
        if not isinstance(result, Tensor) or tuple(result.shape) != (self.rows, *value.shape):
            self.refuse(f"{name} in {self.place()}")
        self.bind(result, value)
        return result

    def _execute(
        self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], value: Value
    ) -> Any:
        """What the call gives: of the right shape, graph and memory.

        Nothing is computed: torch's own ways to tell a shape are Python, and slow. Only what may
        give its operand or a view of it is called.
        """
        if func is Tensor.to:
            return args[0].clone() if kwargs.get("copy") else args[0]
        if func in CALLED:
            return func(*args, **kwargs)
        if is_in_place(func, args, kwargs):
            overwritten = args[0] if args else kwargs["input"]
            joins = func is Tensor.add_ and not overwritten.requires_grad
            if joins and any(isinstance(t, Tensor) and t.requires_grad for t in args):
                return func(*args, **kwargs)  # a graph
            torch.autograd.graph.increment_version(overwritten)
            return overwritten
        tensors = [item for arg in (*args, *kwargs.values()) for item in _items(arg)]
        graph = any(isinstance(t, Tensor) and t.requires_grad for t in tensors)
        shape = (self.rows, *value.shape)
        made: Tensor = _Made.apply(self.graph, shape) if graph else self.graph.new_empty(shape)  # type: ignore[no-untyped-call]
        return made

    def translate(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Value:
        """Look the call up and let its translator append to the network."""
        translator = FUNCTIONS.get(func) or METHODS.get(func)
        operands = [self.operand(arg) for arg in args]
        named = {key: self.operand(arg) for key, arg in kwargs.items()}
        first = operands[0] if operands else named.get("input", named.get("tensors"))
        if translator is None or not _has_value(first):
            of = self.named.get(id(first.tensor)) if isinstance(first, Held) else None
            self.refuse(f"{name} of `{of[0]}`" if of else name)
        self._check_contexts()
        path, _ = self.path[-1] if self.path else ("", None)
        self.name = path or name.rpartition(".")[2].rstrip("_")
        return translator(self, *operands, **named)

    def _switch(self, on: bool) -> None:
        """Follow what the forward itself switches; the off of a custom Function is not its own."""
        if self.records != torch.is_grad_enabled():
            self.stop(", which switches gradients in a torch.autograd.Function")
        self.records = on

    def _check_contexts(self) -> None:
        """Refuse what autograd would not record, or would compute otherwise."""
        if torch._C._autograd._top_saved_tensors_default_hooks(True) != self.hooks:
            self.stop(", which computes under hooks of saved tensors, as checkpointing does")
        if not torch.is_grad_enabled():
            self.stop(", which computes under torch.no_grad() or in a torch.autograd.Function")
        if is_autocast(self.device):
            self.stop(", which computes under torch.autocast")
        if torch._C._are_functorch_transforms_active():
            self.stop(", which computes under a transform of torch.func")

    def _counts(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What batch norm does with the number of its batches, of which nothing depends here."""
        layer = self.path[-1][1] if self.path else None
        if func in (Tensor.add_, Tensor.__float__) and isinstance(layer, _BatchNorm):
            own = layer._buffers["num_batches_tracked"]
            if args[0] is own:
                return own if func is Tensor.add_ else 1.0
        return UNANSWERED

    def operand(self, argument: Any) -> Any:
        """What an argument stands for: an activation, or a tensor of the model."""
        if isinstance(argument, Tensor):
            found = self.values.get(id(argument))
            if found is None:
                return Held(argument)
            _, value, version, node = found
            if argument._version != version:
                self.stop(", which uses a view of a tensor that an in-place operation has changed")
            if type(argument.grad_fn) is not node:
                self.stop(", which derives by a torch.autograd.Function of its own")
            return value
        if type(argument) in (list, tuple):
            return type(argument)(self.operand(item) for item in argument)
        return argument

    def bind(self, tensor: Tensor, value: Value) -> None:
        """Note what a tensor holds by now."""
        self.values[id(tensor)] = (tensor, value, tensor._version, type(tensor.grad_fn))

    # --- what translators call --------------------------------------------------------------------

    def place(self) -> str:
        """The innermost layer that is being run."""
        return layer_name(*self.path[-1]) if self.path else layer_name("", self.model)

    def refuse(self, name: str) -> NoReturn:
        """Refuse a function; of a layer of torch's the name of the layer says more."""
        module = self.path[-1][1] if self.path else self.model
        if not type(module).__module__.startswith("torch.nn.modules"):
            self._stop(UnsupportedModelError(f"{name} in {self.place()}"))
        mode = getattr(module, "padding_mode", "zeros")
        self.stop("" if mode == "zeros" else f" with padding_mode={mode!r}")

    def stop(self, reason: str = "") -> NoReturn:
        """Refuse the layer that is being run."""
        self._stop(UnsupportedModelError(self.place() + reason))

    def _stop(self, error: Exception) -> NoReturn:
        self.error = self.error or error
        raise _Stop

    def misfit(self, expected: str, got: tuple[int, ...]) -> NoReturn:
        """Report a shape that the layer being run cannot take."""
        self._stop(
            ShapeError(
                f"{self.where}: {self.place()} must get rows of shape {expected}, got "
                f"{list(got)}; change the layer or the data."
            )
        )

    def use(self, operand: Any) -> Value:
        """The activation in an operand."""
        if not isinstance(operand, Value):
            self.stop(f", which applies {self.name} to something other than activations")
        return operand

    def param(self, held: Any) -> int:
        """Index of a parameter or buffer among the network's tensors."""
        if held is None:
            return -1
        known = self.named.get(id(held.tensor)) if isinstance(held, Held) else None
        if known is None:
            self.stop(", which uses a tensor that is neither its parameter nor its buffer")
        name, tensor, version = known
        if tensor._version != version:
            self.stop(f", which writes `{name}`")
        if is_index(tensor):
            self.stop(f", which computes with `{name}` of {tensor.dtype}")
        if id(tensor) not in self.index:
            self.index[id(tensor)] = len(self.tensors)
            trainable = isinstance(tensor, nn.Parameter) and tensor.requires_grad
            self.tensors.append(TensorSpec(name, tuple(tensor.shape), trainable, trainable))
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
        for name, value in attrs.items():
            if not isinstance(value, (bool, int, float)):
                self.stop(f", which takes a {type(value).__name__} for {name}")
        operands = tuple(self.use(value).id for value in inputs)
        self.nodes.append(Node(op, operands, params, attrs, shape, self.name))
        return Value(len(self.nodes), shape)


class _Made(torch.autograd.Function):
    """A tensor that is part of a graph."""

    @staticmethod
    def forward(ctx: Any, graph: Tensor, shape: tuple[int, ...]) -> Tensor:
        return graph.new_empty(shape)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[None, None]:
        return None, None


def _items(operand: Any) -> tuple[Any, ...]:
    """What a list or tuple holds, or the operand alone."""
    return tuple(operand) if type(operand) in (list, tuple) else (operand,)


def _has_value(operand: Any) -> bool:
    """Whether it is an activation, or a list or tuple that holds one."""
    return any(isinstance(item, Value) for item in _items(operand))
