"""The tables of layers and losses in `layers.md`: `python -m docs.layers [--check]`.

They are read off what the tracer goes by, so that they cannot promise anything else: the tables of
`fastmaml.tracing.ops`, the translators' own refusals, and `fastmaml.losses`. Which layers of torch
call these functions is tried, layer by layer.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from benchmarks.table import replace_between_markers
from fastmaml import losses
from fastmaml.errors import ShapeError, UnsupportedModelError
from fastmaml.tracing import ops
from fastmaml.tracing.trace import trace

PAGE = Path(__file__).with_suffix(".md")
MARKERS = {
    name: (f"<!-- {name} table: begin -->", f"<!-- {name} table: end -->")
    for name in ("layer", "loss")
}

Translator = Callable[..., Any]

# What layers are tried with: most take one of these as their arguments, and one of these as a row.
_ARGUMENTS: tuple[tuple[Any, ...], ...] = (
    *((), (4,), (2,), (4, 4), (2, 4), (4, 4, 3), (1, (2, 2))),
)
_ROWS = ((4,), (4, 8, 8))


def main(arguments: list[str] | None = None) -> int:
    """Write the page's tables.

    Args:
        arguments: Command line, or None for the process's own.

    Returns:
        Exit status: 1 when ``--check`` found another table on the page than there should be.
    """
    check = arguments_parser().parse_args(arguments).check
    old = PAGE.read_text()
    new = replace_between_markers(old, layer_table(), *MARKERS["layer"])
    new = replace_between_markers(new, loss_table(), *MARKERS["loss"])
    if check:
        return int(new != old)
    PAGE.write_text(new)
    return 0


def arguments_parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(prog="python -m docs.layers", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; status 1 if it would change"
    )
    return parser


def layer_table() -> str:
    """A row for each translator of the tracer, as Markdown."""
    calls: dict[Translator, list[str]] = {}
    for function, translator in (*ops.FUNCTIONS.items(), *ops.METHODS.items()):
        calls.setdefault(_inner(translator), []).append(short(function))
    layers = layers_taken()
    head = ("op", "layers of `torch.nn`", "functions and methods", "arguments", "runs in PyTorch")
    rows = [
        (
            f"`{_name(translator)}`",
            _code(layers.get(translator, ())),
            _code(dict.fromkeys(names)),
            _code(_settings(translator)),
            "; ".join(_refusals(translator)),
        )
        for translator, names in calls.items()
    ]
    return _table(head, rows)


def loss_table() -> str:
    """A row for each loss that the engine knows, as Markdown."""
    modules: dict[Any, Any] = {loss.op: module for module, loss in losses._BY_MODULE.items()}
    rows = [
        (f'`"{name}"`', f"`nn.{modules[loss.op].__name__}`", f"`{short(loss.function)}`")
        for name, loss in losses._NAMED.items()
    ]
    return _table(("name", "layer", "function"), rows)


def short(function: Any) -> str:
    """A torch function or method as code calls it.

    >>> short(F.gelu), short(torch.Tensor.view)
    ('F.gelu', 'Tensor.view')
    """
    name, bare = ops.function_name(function), function.__name__
    if getattr(F, bare, None) is function:
        return f"F.{bare}"
    for long, known in (
        ("torch.Tensor", "Tensor"),
        ("torch._C._special.special_", "torch.special."),
    ):
        name = name.replace(long, known)
    return name


def layers_taken() -> dict[Translator, list[str]]:
    """The layers of torch.nn that a trace takes, in eval mode, by the translator that they meet."""
    found: dict[Translator, list[str]] = {}
    for name in sorted(dir(nn)):
        kind = getattr(nn, name)
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.Module:
            met = _first_met(kind)
            if met is not None:
                found.setdefault(met, []).append(f"nn.{name}")
    return found


def _first_met(kind: type[nn.Module]) -> Translator | None:
    """The translator of the first call of the layer's forward, if a trace takes all of it."""
    for arguments in _ARGUMENTS:
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = kind(*arguments).eval()
            for shape in _ROWS:
                with contextlib.suppress(UnsupportedModelError, ShapeError):
                    trace(layer, shape)
                    return _called(layer, shape)
    return None


def _called(layer: nn.Module, shape: tuple[int, ...]) -> Translator | None:
    calls = _Calls()
    x = torch.zeros(3, *shape)
    with torch.no_grad(), calls:
        layer(x)
    return next(calls.translators(), None)


class _Calls(TorchFunctionMode):
    """Writes down what is called."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._seen.append(func)
        return func(*args, **(kwargs or {}))

    def translators(self) -> Iterator[Translator]:
        """Of those calls that have one, in order."""
        tables = ops.FUNCTIONS | ops.METHODS
        return (_inner(tables[function]) for function in self._seen if function in tables)


def _inner(translator: Translator) -> Translator:
    """What a lambda that only reorders arguments calls."""
    if translator.__name__ != "<lambda>":
        return translator
    inner: Translator = getattr(ops, translator.__code__.co_names[0])
    return inner


def _name(translator: Translator) -> str:
    return translator.__name__.lstrip("_")


def _settings(translator: Translator) -> list[str]:
    """Arguments behind the builder and the operand; what stands for any shape is left out."""
    named = list(inspect.signature(translator).parameters.values())[2:]
    return [p.name for p in named if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _refusals(translator: Translator) -> list[str]:
    """The reasons that the translator itself gives, with dots for what depends on the call."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(translator)))
    reasons: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "stop" and node.args:
            reasons.append(_text(node.args[0]).strip(", ").removeprefix("which "))
    return list(dict.fromkeys(reasons))


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "..." for v in node.values)
        return "".join(str(part) for part in parts)
    assert isinstance(node, ast.Constant)
    return str(node.value)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
