"""Where a step's time on a device goes: its kernels by what they do, from a trace of torch's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# fastmaml's kernels bear the arguments of their instruction, or a name of their own.
_INSTRUCTION = re.compile(r"instruction_kernel<\w+, fastmaml::(?:\w+::)*?(?:Device)?(\w+?)Args\b")
_OWN = re.compile(r"fastmaml::device::(?:\(anonymous namespace\)::)?(\w+)")
OTHERS = "torch's"


@dataclass(frozen=True, slots=True)
class Share:
    """The kernels of one kind.

    Attributes:
        kind: An instruction of fastmaml's ("Contract"), a kernel of its own ("resident"), or
            `OTHERS`.
        kernels: How many.
        seconds: What they took together.
    """

    kind: str
    kernels: int
    seconds: float


def shares(events: Iterable[dict[str, Any]]) -> list[Share]:
    """Sum up the kernels of a trace.

    Args:
        events: Of a trace in Chrome's format, ``traceEvents``; all but kernels are left out.

    Returns:
        A `Share` for every kind, that of the longest time first.

    >>> conv = "void fastmaml::device::instruction_kernel<float, fastmaml::DeviceConvArgs>(...)"
    >>> shares([{"cat": "kernel", "name": conv, "dur": 2.5}])
    [Share(kind='Conv', kernels=1, seconds=2.5e-06)]
    """
    found: dict[str, tuple[int, float]] = {}
    for event in events:
        if event.get("cat") != "kernel":
            continue
        kind = kind_of(event["name"])
        count, seconds = found.get(kind, (0, 0.0))
        found[kind] = count + 1, seconds + event["dur"] / 1e6
    all_kinds = [Share(kind, *sums) for kind, sums in found.items()]
    return sorted(all_kinds, key=lambda share: -share.seconds)


def kind_of(name: str) -> str:
    """What the kernel of this symbol does."""
    match = _INSTRUCTION.search(name) or _OWN.search(name)
    return match[1] if match else OTHERS


def render(parts: list[Share]) -> str:
    """One line: "144 kernels: Contract 75% (109), ...", kinds below a percent left out."""
    total = sum(part.seconds for part in parts)
    kinds = [
        f"{part.kind} {part.seconds / total:.0%} ({part.kernels})"
        for part in parts
        if part.seconds >= 0.01 * total
    ]
    return f"{sum(part.kernels for part in parts)} kernels: {', '.join(kinds)}"


__all__ = ["OTHERS", "Share", "kind_of", "render", "shares"]
